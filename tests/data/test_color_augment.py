"""The photometric part of views: the per-image recipe with one draw for each sample."""

import dataclasses
import itertools
import math

import pytest
import torch

from moco.data.augment import BLOCK_PIXELS, SMALLEST_BLOCK, ColorDraws, color_views, draw_colors
from tests.data.examples import EVERYTHING, PLAIN, RECIPES, generator, pictures
from tests.reference.views import naive_photometric

ALL = {
    **RECIPES,
    "everything": EVERYTHING,
    "everything, grey first": dataclasses.replace(EVERYTHING, grayscale_first=True),
}
V3 = RECIPES["v3"]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# In units of the standard deviation, about 4.5 a unit of [0, 1]: float32 rounding through up to seven operations, with
# factors up to 2.5; measured 2e-5. One grey value of an 8-bit image is 0.018.
CLOSE = 1e-4
COUNT = 20_000  # draws of a statistical test


def crops_of(count, size=16):
    """Of two views, (2, N, S, S, 3) uint8."""
    return pictures(2 * count, size, seed=1).view(2, count, size, size, 3)


def of_all(count, recipe, seed=3):
    """Draws of a whole step."""
    return draw_colors(count, torch.arange(count), recipe, generator(seed))


def fields(draws):
    return {field.name: getattr(draws, field.name) for field in dataclasses.fields(draws)}


def within_chance(chosen, share):
    """4.5 standard errors."""
    return abs(chosen.double().mean().item() - share) <= 4.5 * math.sqrt(share * (1 - share) / len(chosen))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ALL)
def test_views_are_those_of_the_per_image_twin(name, device):
    recipe, count, size = ALL[name], 70, 48
    assert count > BLOCK_PIXELS // size**2 > SMALLEST_BLOCK, "more than one block, and not a multiple of it"
    crops, draws = crops_of(count, size), of_all(count, recipe)
    kept = crops.clone()
    pair = color_views(crops.to(device), recipe, draws)
    assert torch.equal(crops, kept)
    for view, view_crops, of_view in zip(pair, crops, draws, strict=True):
        assert (view.shape, view.dtype) == ((count, 3, size, size), torch.float32)
        assert view.is_contiguous(memory_format=torch.channels_last)
        for number in range(count):
            expected = naive_photometric(view_crops[number], recipe, of_view, number)
            torch.testing.assert_close(view[number].cpu(), expected, rtol=0, atol=CLOSE)


def test_the_order_of_the_operations_shows():
    """The twin would not tell them apart otherwise."""
    recipe = dataclasses.replace(RECIPES["v1"], grayscale_probability=1.0)
    last = dataclasses.replace(recipe, grayscale_first=False)
    first_views, last_views = (color_views(crops_of(64), r, of_all(64, r))[0] for r in (recipe, last))
    assert (first_views - last_views).abs().amax((1, 2, 3)).median() > 0.05
    draws = ColorDraws.sample(64, dataclasses.replace(EVERYTHING, jitter_probability=1.0), generator(1))
    turned = dataclasses.replace(draws, order=draws.order.flip(1))
    straight, other = (color_views(crops_of(64)[:1], EVERYTHING, [d])[0][3:] for d in (draws, turned))
    assert (straight - other).abs().amax((1, 2, 3)).median() > 0.05


def test_choices_come_through_to_the_pixels():
    """Every second view is inverted where it is bright, no first one is; some views are grey, some untouched."""
    recipe = dataclasses.replace(PLAIN, solarize_probability_2=1.0)
    bright = torch.full((2, 6, 8, 8, 3), 200, dtype=torch.uint8)
    first, second = color_views(bright, recipe, of_all(6, recipe))
    torch.testing.assert_close(first, torch.full_like(first, 200 / 255))
    torch.testing.assert_close(second, torch.full_like(second, 55 / 255))
    recipe = dataclasses.replace(PLAIN, grayscale_probability=0.2, jitter_probability=0.7, brightness=0.4)
    colour = torch.tensor([10, 40, 200], dtype=torch.uint8).expand(2, 4000, 4, 4, 3)
    for view in color_views(colour, recipe, of_all(4000, recipe)):
        assert within_chance((view[:, 0] - view[:, 2]).abs().amax((1, 2)) < 1e-5, 0.2)
        assert within_chance((view[:, 2] - 200 / 255).abs().amax((1, 2)) < 1e-5, 0.8 * 0.3)


@pytest.mark.parametrize("name", RECIPES)
def test_draws_have_the_recipes_shares_and_ranges(name):
    """Factors uniform by Kolmogorov-Smirnov at alpha 0.001, at this seed; each view by its own recipe."""
    for recipe, draws in zip((RECIPES[name], RECIPES[name].second), of_all(COUNT, RECIPES[name]), strict=True):
        assert within_chance(draws.jitter, recipe.jitter_probability)
        assert within_chance(draws.gray, recipe.grayscale_probability)
        assert within_chance(draws.blur, recipe.blur_probability)
        assert within_chance(draws.solarize, recipe.solarize_probability)
        widths = (recipe.brightness, recipe.contrast, recipe.saturation)
        ranges = [*((1 - width, 1 + width) for width in widths), (-recipe.hue, recipe.hue), recipe.blur_sigma]
        for (low, high), values in zip(ranges, [*draws.factors.T.double(), draws.sigmas.double()], strict=True):
            place = ((values - low) / (high - low)).sort().values
            assert -1e-6 < place[0] < place[-1] < 1 + 1e-6
            assert (place - (torch.arange(COUNT) + 0.5) / COUNT).abs().max() < 1.95 / math.sqrt(COUNT)


def test_factors_end_at_zero_however_wide_the_jitter():
    factors = ColorDraws.sample(5000, EVERYTHING, generator(0)).factors
    assert factors[:, :3].min() >= 0
    torch.testing.assert_close(factors.amin(0), torch.tensor([0, 0, 0, -0.5]), rtol=0, atol=2e-3)
    torch.testing.assert_close(factors.amax(0), torch.tensor([2.5, 2.2, 2.5, 0.5]), rtol=0, atol=2e-3)


def test_the_24_orders_of_the_jitter_are_equally_likely():
    """Chi-squared with 23 degrees of freedom is below 49.7 with probability 0.999."""
    orders = [tuple(order) for order in ColorDraws.sample(24_000, RECIPES["v2"], generator(5)).order.tolist()]
    found = [orders.count(order) for order in itertools.permutations(range(4))]
    assert sum(found) == 24_000
    assert sum((n - 1000) ** 2 / 1000 for n in found) < 49.7


def test_draws_are_independent_of_each_other_and_between_samples_and_views():
    tables = []
    for draws in of_all(COUNT + 1, EVERYTHING):
        columns = [draws.jitter, draws.gray, draws.blur, draws.solarize, draws.sigmas, *draws.factors.T]
        tables.append(torch.stack([column.double() for column in [*columns, (draws.order == 3).int().argmax(1)]]))
    first, second, following = tables[0][:, :-1], tables[1][:, :-1], tables[0][:, 1:]
    size = len(first)
    limit = 4.5 / math.sqrt(COUNT)
    assert (torch.corrcoef(first) - torch.eye(size)).abs().max() < limit
    for other in (second, following):
        assert torch.corrcoef(torch.cat([first, other]))[:size, size:].abs().max() < limit


def test_a_second_view_of_its_own_kind_changes_nothing_else():
    """Neither the first view, nor any draw of the second but the two that it has of its own."""
    alike = dataclasses.replace(V3, blur_probability_2=None, solarize_probability_2=None)
    assert V3.second != V3
    assert alike.second == alike
    own, same = of_all(200, V3), of_all(200, alike)
    differing = [
        {key for key, drawn in fields(one).items() if not torch.equal(drawn, fields(other)[key])}
        for one, other in zip(own, same, strict=True)
    ]
    assert differing == [set(), {"blur", "solarize"}]
