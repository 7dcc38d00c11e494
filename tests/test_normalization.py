"""The text of a normalisation: names, numbers, and what is refused."""

import pytest

from moco.errors import ConfigError
from moco.normalization import CIFAR, IMAGENET, normalization_text, normalization_values


@pytest.mark.parametrize("values", [IMAGENET, CIFAR, ((0.5,), (0.25,)), ((0.1, 0.2, 0.3, 1 / 3), (1, 2, 3, 4e-3))])
def test_text_and_values_agree(values):
    text = normalization_text(*values)
    assert (text in ("imagenet", "cifar")) == (values in (IMAGENET, CIFAR))
    for found, expected in zip(normalization_values(text), values, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("text", ["", "mean", "0.5", "0.5/", "0.5,0.5/0.2", "0.5/0", "0.5/-1", "nan/1", "1/inf", "a/b"])
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match="expected imagenet, cifar, none or MEAN/STD"):
        normalization_values(text)
