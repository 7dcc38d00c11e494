"""A second view with probabilities of its own, as MoCo v3 has it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from moco.data.finish import Draws
from moco.workload import view_recipe
from tests.data.test_views import PLAIN, RECIPES, generator, pictures

from moco.data.views import photometric_views, sample_draws, two_views
from moco.errors import ConfigError
from moco.recipes import configure

V3 = RECIPES["v3"]
NAMES = [field.name for field in dataclasses.fields(Draws)]


def test_shares_are_those_of_the_paper():
    """Blur 1 and 0.1, solarize 0 and 0.2; within 4.5 standard errors at this seed."""
    count = 20_000
    draws = sample_draws(count, V3, generator(3))
    for name, shares in {"blur": (1.0, 0.1), "solarize": (0.0, 0.2), "gray": (0.2, 0.2), "jitter": (0.8, 0.8)}.items():
        chosen = getattr(draws, name)
        assert len(chosen) == 2 * count
        for found, share in zip(chosen.view(2, count).double().mean(dim=1), shares, strict=True):
            assert abs(found - share) <= 4.5 * math.sqrt(share * (1 - share) / count), name


def test_views_alike_are_drawn_as_ever():
    """One call of `Draws.sample`, in its sequence: what the same seed gave before there was a second view's recipe."""
    for name in ("v1", "v2", "cifar", "picturebook"):
        assert RECIPES[name].second == RECIPES[name]
        stream, other = generator(5), generator(5)
        draws, expected = sample_draws(30, RECIPES[name], stream), Draws.sample(60, RECIPES[name], other)
        assert all(torch.equal(getattr(draws, field), getattr(expected, field)) for field in NAMES)
        assert torch.equal(stream.get_state(), other.get_state())


def test_a_second_view_of_its_own_changes_nothing_else():
    alike = dataclasses.replace(V3, blur_probability_2=None, solarize_probability_2=None)
    stream, other = generator(5), generator(5)
    own, same = sample_draws(30, V3, stream), sample_draws(30, alike, other)
    assert torch.equal(stream.get_state(), other.get_state())
    for name in NAMES:
        first, second = getattr(own, name)[:30], getattr(own, name)[30:]
        assert torch.equal(first, getattr(same, name)[:30]), name
        assert torch.equal(second, getattr(same, name)[30:]) == (name not in ("blur", "solarize")), name
    images = pictures(30, 24, 24)
    for make in (
        lambda recipe: two_views(images, recipe, 16, generator(1)),
        lambda recipe: photometric_views(torch.stack([images, images]), recipe, generator(1)),
    ):
        (own_1, own_2), (same_1, same_2) = make(V3), make(alike)
        assert torch.equal(own_1, same_1)
        assert not torch.equal(own_2, same_2)


@pytest.mark.parametrize("batched", [True, False], ids=["two_views", "photometric_views"])
def test_a_second_views_choices_come_through_to_the_pixels(batched):
    """Every second view is inverted where it is bright, no first one is."""
    recipe = dataclasses.replace(PLAIN, crop_scale=(1.0, 1.0), solarize_probability_2=1.0)
    picture = torch.full((6, 3, 8, 8), 200, dtype=torch.uint8)
    if batched:
        first, second = two_views(picture, recipe, 8, generator(0))
    else:
        first, second = photometric_views(torch.stack([picture, picture]), recipe, generator(0))
    torch.testing.assert_close(first, torch.full_like(first, 200 / 255))
    torch.testing.assert_close(second, torch.full_like(second, 55 / 255))


def test_the_configuration_decides():
    options = {"blur_probability_2": 0.3, "solarize_probability": 0.4, "solarize_probability_2": 0.6}
    recipe = view_recipe(configure("v2", options))
    assert (recipe.blur_probability, recipe.solarize_probability) == (0.5, 0.4)
    assert (recipe.second.blur_probability, recipe.second.solarize_probability) == (0.3, 0.6)
    assert recipe.second.second == recipe.second


@pytest.mark.parametrize("name", ["blur_probability_2", "solarize_probability", "solarize_probability_2"])
def test_shares_outside_their_range_are_refused(name):
    for value in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=f"{name}={value}"):
            configure("v2", {name: value})
        with pytest.raises(ConfigError, match=f"{name}={value}"):
            dataclasses.replace(PLAIN, **{name: value})
