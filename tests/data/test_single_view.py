"""One view where no more is wanted: the first of two, bit for bit, for half of the work."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.data.test_loader import VIVID, Flat, loader, same, take
from tests.data.test_loader import array_source as small_array
from tests.data.test_views import RECIPES, generator, pictures

from moco.data import plans
from moco.data.arrays import ArraySource
from moco.data.views import photometric_views, plan_views, two_views


def large_array(count):
    """Wider than what a CPU crops in batches."""
    return ArraySource(np.random.default_rng(0).integers(0, 256, (count, 70, 72, 3), dtype=np.uint8))


SOURCES = {
    "resident": small_array,
    "one by one": large_array,
    "streamed": lambda count: Flat(count, damaged=(2, 9)),
}


@pytest.mark.parametrize("color", ["exact", "fast"])
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("count", "side", "size"), [(33, 32, 32), (7, 24, 12), (5, 96, 64)])
def test_the_view_is_the_first_of_two_bit_for_bit(name, color, count, side, size):
    recipe, images = dataclasses.replace(RECIPES[name], color=color), pictures(count, side, side)
    stream, other = generator(5), generator(5)
    (alone,) = plan_views(images, recipe, size, stream, views=1).complete()
    first, _ = two_views(images, recipe, size, other)
    assert torch.equal(alone, first)
    assert alone.stride() == first.stride()
    assert torch.equal(stream.get_state(), other.get_state()), "what is drawn next does not depend on it"
    crops = torch.stack([images, images.flip(-1)])
    (alone,) = photometric_views(crops[:1], recipe, generator(5))
    assert torch.equal(alone, photometric_views(crops, recipe, generator(5))[0])


@pytest.mark.parametrize("kind", SOURCES)
def test_a_loader_gives_the_same_first_views_and_the_same_images(kind):
    two, one = (loader(SOURCES[kind](23), recipe=VIVID, views=views) for views in (2, 1))
    expected, alone = take(two, 12), take(one, 12)
    assert [len(views) for views in alone] == [1] * 12
    assert same([views[:1] for views in expected], alone)
    assert two.indices.tolist() == one.indices.tolist()
    assert same(take(one, 4, first_step=8), alone[8:])


def test_the_second_crop_is_not_made(monkeypatch):
    made: list[int] = []
    crop = plans.resized_crop_pixels

    def counted(pixels, box, flip, out):
        made.append(1)
        return crop(pixels, box, flip, out)

    monkeypatch.setattr(plans, "resized_crop_pixels", counted)
    for views in (2, 1):
        made.clear()
        plan = loader(Flat(20), recipe=VIVID, views=views).planner.crops(0)
        plan.make(slice(0, 4))
        assert len(plan.results[0]) == views
        assert len(made) == 4 * views
