"""Smaller views first: what the option says, which views come at which step, and what a run makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import moco
from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews
from moco.data.skipped import SkippedFiles
from moco.errors import ArchitectureError, ConfigError
from moco.fit import measure as measuring
from moco.recipes import configure
from moco.sizes import SizeByStep, size_by_step
from tests.conftest import StopAt
from tests.data.examples import PLAIN, pictures


def weights(run) -> dict[str, torch.Tensor]:
    return dict(torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)["model"])


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_sizes_follow_the_shares_and_the_last_is_the_final_one():
    sizes = size_by_step("16:0.5,24:0.25", 32)
    assert [sizes.at(step, 8) for step in range(8)] == [16] * 4 + [24] * 2 + [32] * 2
    assert sizes.ends(8) == [(16, 4), (24, 6)]
    assert sizes.shares() == [(16, 0.5), (24, 0.25), (32, 0.25)]


@pytest.mark.parametrize(("final", "half"), [(224, 112), (64, 32), ((64, 96), (32, 48))])
def test_auto_is_half_the_size_for_three_quarters(final, half):
    assert size_by_step("auto", final) == SizeByStep(final, ((half, 0.75),))


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
def test_no_run_is_too_short_for_its_order(total):
    sizes = [size_by_step("8:0.3,16:0.3", 32).at(step, total) for step in range(total)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("stated", "needed"),
    [
        ("half", "expected auto"),
        ("32", "expected auto"),
        ("32:a", "expected auto"),
        ("", "expected auto"),
        ("32:0.5", "need sizes that grow"),
        ("16:0.2,16:0.2", "need sizes that grow"),
        ("16x32:0.2", "need sizes that grow"),
        ("4:0.5", "need at least 8"),
        ("16:1", "sum below 1"),
        ("16:0", "sum below 1"),
        ("16:nan", "sum below 1"),
        ("16:0.5,24:0.5", "sum below 1"),
    ],
)
def test_what_makes_no_sense_is_refused(stated, needed):
    with pytest.raises(ConfigError, match=needed):
        configure("v2", {"image_size": 32, "progressive_resolution": stated})


def loader(size, recipe=PLAIN, total=4):
    source = ArraySource(pictures(9, 40).numpy(), name="images")
    order = EpochOrder(np.arange(9), batch_size=3, seed=2)
    make = RecipeViews(recipe, size, order, device_type="cpu")
    made = ViewLoader(source, order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=0)
    made.for_length(total)
    return made


def batches(made, first, count):
    generator = made.batches(first)
    found = [next(generator)[0] for _ in range(count)]
    generator.close()
    return found


def test_views_of_a_step_are_those_of_a_run_of_that_size_alone():
    growing = batches(loader(size_by_step("16:0.5", 32)), 0, 4)
    for step, (first, second) in enumerate(growing):
        size = 16 if step < 2 else 32
        (alone,) = batches(loader(size), step, 1)
        assert first.shape == (3, 3, size, size)
        assert torch.equal(first, alone[0])
        assert torch.equal(second, alone[1])


def test_blur_is_that_of_a_full_view_made_smaller():
    """A sigma of 2 pixels at 32 px is one of 1 at 16."""
    always = {"blur_probability": 1.0}
    recipe, halved = (dataclasses.replace(PLAIN, blur_sigma=(sigma, sigma), **always) for sigma in (2.0, 1.0))
    (growing,) = batches(loader(size_by_step("16:0.5", 32), recipe), 0, 1)
    (alone,) = batches(loader(16, halved), 0, 1)
    assert torch.equal(growing[0], alone[0])


def test_files_are_decoded_no_larger_than_a_step_needs(tmp_path, monkeypatch):
    for number in range(4):
        Image.fromarray(np.full((512, 512, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.jpg")
    seen, read = [], FolderSource.pixels
    monkeypatch.setattr(
        FolderSource,
        "pixels",
        lambda source, index, *, min_side=None: seen.append(min_side) or read(source, index, min_side=min_side),
    )
    order = EpochOrder(np.arange(4), batch_size=2, seed=0)
    make = RecipeViews(PLAIN, size_by_step("16:0.5", 64), order, device_type="cpu")
    made = ViewLoader(
        FolderSource(tmp_path), order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=0
    )
    made.for_length(2)
    batches(made, 0, 2)
    small, full = PLAIN.min_side(16), PLAIN.min_side(64)
    assert seen == [small] * 2 + [full] * 2
    assert small < full == make.min_side


def test_a_run_ends_at_the_final_size_and_a_resumed_one_is_the_same(photos, tmp_path, tiny):
    options = {**tiny, "image_size": 32, "progressive_resolution": "16:0.5", "quiet": True}
    whole = moco.pretrain(photos, out=tmp_path / "whole", **options)
    moco.pretrain(photos, out=tmp_path / "parts", callbacks=[StopAt(2)], **options)
    moco.pretrain(out=tmp_path / "parts", resume=True, callbacks=[StopAt(4)], quiet=True)
    parts = moco.pretrain(out=tmp_path / "parts", resume=True, quiet=True)
    assert equal(weights(whole), weights(parts))
    plain = moco.pretrain(photos, out=tmp_path / "plain", **{**options, "progressive_resolution": None})
    assert not equal(weights(whole), weights(plain))
    assert whole.backbone.preprocess.size == 32


@pytest.mark.parametrize(
    "options", [{"mechanism": "memory-bank"}, {"mechanism": "end-to-end"}, {"symmetric": True}, {"recipe": "v3"}]
)
def test_it_composes_with_every_mechanism(photos, tmp_path, tiny, options):
    if options.get("recipe") == "v3":
        pytest.importorskip("timm")
        tiny = {name: value for name, value in tiny.items() if name != "dictionary_size"} | {"hidden_dim": 8}
    elif options.get("mechanism") == "end-to-end":
        tiny = {name: value for name, value in tiny.items() if name != "dictionary_size"}
    stated = {**tiny, "image_size": 32, "progressive_resolution": "16:0.5", "steps": 2, "knn_evaluations": 0, **options}
    assert moco.pretrain(photos, out=tmp_path / "run", quiet=True, **stated).finished


def test_a_transform_of_the_users_excludes_it(photos, tmp_path, tiny):
    options = {**tiny, "progressive_resolution": "8:0.5"}
    with pytest.raises(ConfigError, match="progressive_resolution with transform"):
        moco.pretrain(photos, out=tmp_path / "run", transform=lambda image: (image, image), **options)
    config = configure("v2", {name: value for name, value in options.items() if name != "recipe"})
    with pytest.raises(ConfigError, match="progressive_resolution with transform"):
        moco.pretrain(photos, out=tmp_path / "run", transform=lambda image: (image, image), config=config)


def test_a_vit_of_fixed_positions_is_refused(photos, tmp_path, tiny):
    pytest.importorskip("timm")
    options = {**tiny, "backbone": "v3/vit_tiny_patch8", "progressive_resolution": "8:0.5"}
    with pytest.raises(ArchitectureError, match="progressive_resolution at 8 px"):
        moco.pretrain(photos, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_what_a_step_takes_is_the_mean_over_the_sizes(monkeypatch):
    config = configure("v2", {"image_size": 32, "progressive_resolution": "16:0.5,24:0.25"})
    seconds = {16: 1.0, 24: 2.0}
    monkeypatch.setattr(measuring, "_steps", lambda run, config, deadline, size: (seconds[size], 0.0))
    assert measuring._share_of_full_steps(None, config, 4.0, 1.0) == pytest.approx((0.5 * 1 + 0.25 * 2 + 0.25 * 4) / 4)
