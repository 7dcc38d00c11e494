"""What a run says of its images before it learns from them."""

import numpy as np
import pytest

import moco
from moco.errors import ConfigError


def test_what_is_said_of_the_images_comes_before_the_first_step(photos, tmp_path, tiny, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"{number:02d}.jpg,{number % 2}\n" for number in range(30)))
    moco.pretrain(photos, out=tmp_path / "run", labels=str(labels), **tiny)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{photos}: not read: 1 .txt"
    assert said[1].startswith(f"{labels}: 6 of its 30 rows name no image of photos")
    assert next(at for at, line in enumerate(said) if "24 images" in line or "images from photos" in line) > 1


def test_a_range_that_would_change_nothing_is_refused(tmp_path, tiny):
    images = np.zeros((8, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match="value_range=4095"):
        moco.pretrain(images, out=tmp_path / "run", value_range=4095, **tiny)
    assert not (tmp_path / "run").exists()
