"""What the model refuses, at the door and in one line, and what it takes although it looks odd."""

from __future__ import annotations

import math

import pytest
import torch

from moco.contrast import moco_step
from tests.contrast.test_algorithm_laws import WIDTH, build, normalizing, plain, sgd

REFUSED = [
    ({"dictionary_size": 0}, "dictionary_size=0: need at least 1"),
    ({"embedding_dim": 0}, "embedding_dim=0: need at least 1"),
    ({"key_momentum": -0.1}, "key_momentum=-0.1: need a value from 0"),
    ({"key_momentum": 1.5}, "key_momentum=1.5: need a value from 0"),
    ({"key_momentum": math.nan}, "key_momentum=nan: need a value from 0"),
    ({"temperature": 0.0}, "temperature=0.0: need a value above 0"),
    ({"temperature": -1.0}, "temperature=-1.0: need a value above 0"),
    ({"temperature": math.nan}, "temperature=nan: need a value above 0"),
    ({"batchnorm": "sync"}, "batchnorm='sync': choose one of auto, split, shuffle, average, frozen, none"),
    ({"batchnorm": "shuffle"}, "batchnorm='shuffle' needs at least 2 processes, here is 1: choose 'split'"),
    ({"batchnorm": "none", "split_groups": 4}, "split_groups=4 with batchnorm='none': groups belong to 'split'"),
    ({"batchnorm": "split", "split_groups": 0}, "split_groups=0 with batchnorm='split': groups belong to 'split'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_options_outside_their_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(normalizing(), **options)


@pytest.mark.parametrize("batchnorm", ["split", "average"])
def test_a_cure_for_an_encoder_without_batchnorm_is_refused(batchnorm: str) -> None:
    with pytest.raises(ValueError, match=f"batchnorm='{batchnorm}' for an encoder without BatchNorm layers"):
        build(plain(), batchnorm=batchnorm)


def test_auto_chooses_the_cure_that_fits() -> None:
    assert build(plain()).batchnorm == "none"
    assert build(normalizing()).batchnorm == "split"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_encoder_in_half_precision_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="keep the encoders in float32 and use autocast"):
        build(plain().to(dtype))


@pytest.mark.parametrize("inner", [lambda module: module, lambda module: torch.nn.Sequential(module)])
def test_an_encoder_inside_a_wrapper_of_several_devices_is_refused_with_where_to_put_it(inner) -> None:
    with pytest.raises(
        TypeError, match=r"inside DataParallel: .*query=DistributedDataParallel\(model.query_side"
    ) as caught:
        build(inner(torch.nn.DataParallel(plain())))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", ["query", "key"])
def test_inputs_that_do_not_fit_are_refused(side: str) -> None:
    model = build(normalizing(), embedding_dim=WIDTH + 1)
    embed = getattr(model, side)
    with pytest.raises(ValueError, match=r"the encoder returned \(8, 5\): expected \(8, 6\)"):
        embed(torch.randn(8, 6))
    with pytest.raises(ValueError, match=r"a batch whose tensors have \[7, 8\] samples"):
        embed((torch.randn(8, 6), torch.randn(7, 6)))
    with pytest.raises(ValueError, match=r"a batch whose tensors have \[0, 8\] samples"):
        embed({"x": torch.randn(8, 6), "scale": torch.tensor(1.0)})


@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
@pytest.mark.parametrize("side", ["query", "key"])
def test_a_single_sample_with_batchnorm_is_refused(side: str, batchnorm: str) -> None:
    model = build(normalizing(), batchnorm=batchnorm)
    with pytest.raises(ValueError, match="batch of 1 with BatchNorm: its statistics need at least 2 samples"):
        getattr(model, side)(torch.randn(1, 6))


def test_a_single_sample_is_a_batch_where_there_is_no_batchnorm() -> None:
    model = build(plain())
    assert torch.isfinite(moco_step(model, torch.randn(1, 6), torch.randn(1, 6), sgd(model))[0])
    assert int(model.queue.pointer) == 1
