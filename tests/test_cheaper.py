"""Runs with small views, patches or nearest positives: they resume, compose, and refuse what they exclude."""

from __future__ import annotations

import pytest
import torch

import moco
import moco.contrast
from moco.errors import ArchitectureError, ConfigError
from moco.recipes import configure
from moco.sizes import small_size
from moco.training.mechanism import set_step_
from tests.conftest import StopAt

VARIANTS = [
    {"nearest_positives": 0.5, "nearest_positives_from": 0.3},
    {"small_views": 2, "small_view_size": 12},
    {"patches": True},
]


def weights(run) -> dict[str, torch.Tensor]:
    return dict(torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)["model"])


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def small(tiny):
    """A run of four steps without evaluations."""
    return {**tiny, "image_size": 32, "steps": 4, "knn_evaluations": 0, "quiet": True}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: next(iter(each)))
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_resumed_run_is_the_same_to_the_bit(photos, tmp_path, small, variant, symmetric):
    options = {**small, **variant, "symmetric": symmetric}
    whole = weights(moco.pretrain(photos, out=tmp_path / "whole", **options))
    moco.pretrain(photos, out=tmp_path / "parts", callbacks=[StopAt(2)], **options)
    assert equal(whole, weights(moco.pretrain(out=tmp_path / "parts", resume=True, quiet=True)))
    plain = {**small, "symmetric": symmetric}
    assert not equal(whole, weights(moco.pretrain(photos, out=tmp_path / "plain", **plain)))


@pytest.mark.parametrize(
    ("stated", "image_size", "expected"), [(None, 224, 96), (None, 64, 24), (None, 32, 16), (20, 64, 20)]
)
def test_small_views_are_3_sevenths_of_the_others(stated, image_size, expected):
    assert small_size(stated, image_size) == expected


@pytest.mark.parametrize("options", [{"patches": True}, {"small_views": 2}], ids=lambda each: next(iter(each)))
def test_an_encoder_of_one_size_is_refused(photos, tmp_path, small, options):
    pytest.importorskip("timm")
    stated = {**small, "backbone": "v3/vit_tiny_patch8", **options}
    with pytest.raises(ArchitectureError, match=f"{next(iter(options))} at 16 px"):
        moco.pretrain(photos, out=tmp_path / "run", **stated)
    assert not (tmp_path / "run").exists()


def test_a_transform_of_the_users_makes_no_small_views(photos, tmp_path, small):
    with pytest.raises(ConfigError, match="small_views with transform"):
        moco.pretrain(photos, out=tmp_path / "run", transform=lambda image: (image, image), small_views=2, **small)


def test_all_that_goes_together_goes_together(photos, tmp_path, small):
    options = {**small, "progressive_resolution": "24:0.5", "decoupled": True, "dictionary_dtype": "int8"}
    for number, variant in enumerate(VARIANTS):
        run = moco.pretrain(photos, out=tmp_path / str(number), symmetric=True, **options, **variant)
        assert run.finished
        assert run.model.queue.scales_K is not None


def test_nearest_positives_begin_after_their_share_of_the_run():
    config = configure("v2", {"nearest_positives": 0.7, "nearest_positives_from": 0.25, "steps": 8})
    model = moco.contrast.MoCoVariant(
        torch.nn.Linear(3, 4), dictionary_size=5, embedding_dim=4, key_momentum=0.9, temperature=0.2
    )
    shares = []
    for step in range(8):
        set_step_(model, config, step, 8)
        shares.append(model.nearest_share)
    assert shares == [0.0] * 2 + [0.7] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nearest_positives": 0.5, "mechanism": "end-to-end"}, "no queue of keys"),
        ({"nearest_positives": 0.5, "mechanism": "memory-bank"}, "no queue of keys"),
        ({"nearest_positives": 0.5, "mechanism": "moco-v3"}, "no queue of keys"),
        ({"nearest_positives_from": 0.5}, "would change nothing"),
        ({"small_views": 2, "mechanism": "memory-bank"}, "key encoder with its queue"),
        ({"small_views": 2, "mechanism": "end-to-end"}, "key encoder with its queue"),
        ({"patches": True, "mechanism": "memory-bank"}, "key encoder with its queue"),
        ({"patches": True, "mechanism": "moco-v3"}, "key encoder with its queue"),
        ({"patches": True, "small_views": 2}, "drop one of them"),
        ({"patches": True, "image_size": 33}, "need an even image_size"),
        ({"patches": True, "image_size": 64, "progressive_resolution": "33:0.5"}, "need an even image_size"),
        ({"small_views": 2, "small_view_size": 32, "image_size": 32}, "below that of the others"),
        ({"small_views": 2, "small_view_size": 4, "image_size": 32}, "at least 8"),
        ({"small_views": 2, "image_size": 32, "progressive_resolution": "16:0.5"}, "below that of the others"),
        ({"small_view_size": 16}, "would change nothing"),
        ({"small_crop": (0.1, 0.2)}, "would change nothing"),
        ({"small_views": 2, "small_crop": (0.2, 0.1)}, "two growing shares"),
        ({"small_views": 33}, "at most 32"),
        ({"nearest_positives": 1.5}, "need a value from 0 to 1"),
        ({"decoupled": True, "mechanism": "memory-bank", "dictionary_size": 1}, "need at least 2"),
    ],
)
def test_what_excludes_another_is_refused_with_the_reason(options, message):
    with pytest.raises(ConfigError, match=message):
        configure("v2", options)
