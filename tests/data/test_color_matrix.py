"""One matrix a sample: exact where nothing is cut off and no hue turns, close where it does."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from moco import recipes
from moco.data import color_matrix, photometric
from moco.data.picturebook import draw_book
from moco.data.views import two_views
from moco.workload import view_recipe

ORDERS = torch.tensor(list(itertools.permutations(range(4))))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pastel(count: int) -> torch.Tensor:
    """Colours that no moderate operation drives out of 0..1."""
    return 0.4 + 0.2 * torch.rand(count, 3, 8, 8, generator=generator(0))


def one_by_one(images: torch.Tensor, order: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Operation by operation, sample by sample, with the hue turned in HSV."""
    operations = (
        photometric.adjust_brightness,
        photometric.adjust_contrast,
        photometric.adjust_saturation,
        photometric.adjust_hue,
    )
    out = []
    for image, places, values in zip(images, order.tolist(), factors, strict=True):
        for number in places:
            image = operations[number](image[None] if image.ndim == 3 else image, values[number : number + 1])
        out.append(image[0])
    return torch.stack(out)


def by_matrix(images: torch.Tensor, order: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    pixel, mean = color_matrix.jitter_matrices(order, factors, torch.ones(len(order), dtype=torch.bool))
    zero, one = torch.zeros(3), torch.ones(3)
    return color_matrix.transform(images, pixel, mean, zero, (zero, one))


def test_brightness_contrast_and_saturation_are_exact_in_every_order():
    factors = 0.7 + 0.6 * torch.rand(24, 4, generator=generator(1))
    factors[:, color_matrix.HUE] = 0.0
    images = pastel(24)
    torch.testing.assert_close(
        by_matrix(images, ORDERS, factors), one_by_one(images, ORDERS, factors), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("hue", "most"), [(0.02, 0.012), (0.1, 0.055)])
def test_how_far_small_turns_of_the_hue_are_from_hsv(hue, most):
    factors = torch.ones(24, 4)
    factors[:, color_matrix.HUE] = hue * torch.linspace(-1, 1, 24)
    images = torch.rand(24, 3, 16, 16, generator=generator(2))
    difference = (by_matrix(images, ORDERS, factors) - one_by_one(images, ORDERS, factors)).abs().mean()
    assert difference < most


@pytest.mark.parametrize("shift", [-0.3, -0.1, 0.15, 0.5])
def test_the_hue_turns_the_same_way_as_in_hsv_and_keeps_luma(shift):
    red = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    shifts = torch.tensor([shift])
    turned = (color_matrix.hue_matrices(shifts)[0] @ red[0].flatten(1)).view(1, 3, 4, 4)
    reference = photometric.adjust_hue(red, shifts)
    colour, expected = (x[0, :, 0, 0] - x[0, :, 0, 0].mean() for x in (turned, reference))
    assert torch.cosine_similarity(colour, expected, dim=0) > 0.9
    torch.testing.assert_close(photometric.luma(turned), photometric.luma(red), rtol=0, atol=2e-3)


def test_samples_that_are_not_chosen_stay_as_they_are():
    chosen = torch.tensor([True, False])
    pixel, mean = color_matrix.jitter_matrices(ORDERS[:2], torch.full((2, 4), 0.4), chosen)
    assert torch.allclose(pixel[1], torch.eye(3), atol=1e-6)
    assert torch.equal(mean[1], torch.zeros(3, 3))
    assert not torch.allclose(pixel[0], torch.eye(3), atol=0.1)


@pytest.mark.parametrize("recipe", ["v1", "v2", "cifar"])
def test_fast_views_are_the_exact_ones_but_for_the_hue_and_the_cut(recipe):
    exact = view_recipe(recipes.configure(recipe, {"hue": 0.0}))
    images = torch.from_numpy(draw_book(32, seed=1).images).permute(0, 3, 1, 2)
    views = [
        two_views(images, dataclasses.replace(exact, color=color, solarize_probability=0.3), 24, generator(3))
        for color in ("exact", "fast")
    ]
    for one, two in zip(*views, strict=True):
        difference = (one - two).abs().flatten(1).mean(dim=1)
        assert difference.median() < 1e-3
        assert difference.mean() < 0.05
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert two.is_contiguous(memory_format=torch.channels_last)


def test_fast_views_have_the_same_first_two_moments():
    exact = view_recipe(recipes.configure("v2", {}))
    images = torch.from_numpy(draw_book(400, seed=2).images).permute(0, 3, 1, 2)
    one, two = (
        torch.cat(two_views(images, dataclasses.replace(exact, color=color), 16, generator(seed)))
        for color, seed in (("exact", 4), ("fast", 5))
    )
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(one, dim=(0, 2, 3)), moment(two, dim=(0, 2, 3)), rtol=0, atol=0.05)
