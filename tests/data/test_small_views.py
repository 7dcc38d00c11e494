"""Small views beside the two: which crops and colours they have, and that they change nothing of the others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from moco.data.arrays import ArraySource
from moco.data.augment import ColorDraws, CropBoxes, Poses
from moco.data.loader import ViewLoader
from moco.data.order import SMALL_COLORS, SMALL_VIEWS, EpochOrder, keyed_generator
from moco.data.recipe_views import RecipeViews, SmallViews
from moco.data.skipped import SkippedFiles
from tests.data.examples import EVERYTHING, PLAIN, pictures
from tests.reference.views import naive_photometric

SEED, BATCH, STEP = 3, 4, 5
SMALL = SmallViews(3, 8, (0.05, 0.14))
SOURCE = ArraySource(pictures(9, 40).numpy(), name="images")


def batch(recipe, small, rank=0, world_size=1):
    order = EpochOrder(np.arange(9), batch_size=BATCH, seed=SEED, rank=rank, world_size=world_size)
    make = RecipeViews(recipe, 16, order, device_type="cpu", small=small)
    loader = ViewLoader(SOURCE, order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=0)
    generator = loader.batches(STEP)
    views, indices = next(generator)
    generator.close()
    return views, indices


@pytest.mark.parametrize("recipe", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_they_are_those_of_the_per_image_twin(recipe):
    (*_, small), indices = batch(recipe, SMALL)
    assert small.shape == (3 * BATCH, 3, 8, 8)
    generator = keyed_generator(SEED, SMALL_VIEWS, STEP)
    boxes = CropBoxes(3 * BATCH, crop_min=0.05, crop_max=0.14, generator=generator)
    poses = Poses(3 * BATCH, recipe, generator)
    colors = ColorDraws.sample(3 * BATCH, recipe, keyed_generator(SEED, SMALL_COLORS, STEP))
    for number in range(3 * BATCH):
        pixels = SOURCE.pixels(int(indices[number % BATCH]))
        box, crop = boxes.box(number, 40, 40), torch.empty(8, 8, 3, dtype=torch.uint8)
        assert 0.04 < box[2] * box[3] / 1600 < 0.16  # sides are whole pixels
        poses.place(number, pixels, box, crop)
        expected = naive_photometric(crop, recipe, colors, number)
        torch.testing.assert_close(small[number], expected, rtol=1e-4, atol=1e-4)


def test_the_two_views_stay_as_they_are():
    (first, second), _ = batch(EVERYTHING, None)
    (one, other, _), _ = batch(EVERYTHING, SMALL)
    assert torch.equal(first, one)
    assert torch.equal(second, other)


def test_ranks_share_what_one_process_would_draw():
    (*_, whole), _ = batch(EVERYTHING, SMALL)
    parts = [batch(EVERYTHING, SMALL, rank, 2)[0][2].unflatten(0, (3, 2)) for rank in range(2)]
    torch.testing.assert_close(whole.unflatten(0, (3, BATCH)), torch.cat(parts, dim=1), rtol=1e-5, atol=1e-5)


def test_files_are_decoded_large_enough_for_the_smallest_crop():
    order = EpochOrder(np.arange(9), batch_size=BATCH, seed=SEED)
    make = RecipeViews(PLAIN, 16, order, device_type="cpu", small=SmallViews(1, 12, (0.01, 0.1)))
    assert make.min_side == make.min_side_at(0) == 120
    assert RecipeViews(dataclasses.replace(PLAIN, crop_min=0.01), 16, order, device_type="cpu").min_side == 160
