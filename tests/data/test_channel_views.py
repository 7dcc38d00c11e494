"""Views of any number of channels, and the flips and turns of all of them."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from moco.data.arrays import ArraySource
from moco.data.augment import ColorDraws, Poses, color_views, draw_colors
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews
from moco.data.skipped import SkippedFiles
from moco.data.views import ViewRecipe
from tests.data.examples import RECIPES, generator

COUNT = 20_000


def recipe_of(channels: int, **changes: object) -> ViewRecipe:
    """v3's, whose second view is solarized, for so many channels."""
    mean, std = (tuple(start + 0.01 * number for number in range(channels)) for start in (0.4, 0.2))
    return dataclasses.replace(RECIPES["v3"], mean=mean, std=std, **changes)


def crops_of(count: int, channels: int, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (2, count, size, size, channels), dtype=torch.uint8, generator=generator(1))


def twin(crop_SSC: torch.Tensor, recipe: ViewRecipe, draws: ColorDraws, sample: int) -> torch.Tensor:
    """One image by torchvision's operations, channel by channel, in the drawn order of brightness and contrast."""
    planes = list((crop_SSC.permute(2, 0, 1).float() / 255)[:, None])
    if draws.jitter[sample]:
        for operation, (number, plane) in itertools.product(draws.order[sample].tolist(), enumerate(planes)):
            if operation < 2:
                factor = draws.channel_factors[sample, operation, number].item()
                planes[number] = (F.adjust_brightness, F.adjust_contrast)[operation](planes[number], factor)
                del plane
    image = torch.cat(planes)
    if draws.blur[sample]:
        image = F.gaussian_blur(image, [31, 31], [draws.sigmas[sample].item()] * 2)
    if draws.solarize[sample]:
        image = torch.where(image >= 0.5, 1 - image, image)
    return F.normalize(image, list(recipe.mean), list(recipe.std))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_views_are_those_of_the_per_image_twin(channels):
    recipe, count = recipe_of(channels, jitter_probability=0.7, blur_probability=0.5), 40
    crops = crops_of(count, channels)
    draws = draw_colors(count, torch.arange(count), recipe, generator(3))
    for view, of_crops, of_view in zip(color_views(crops, recipe, draws), crops, draws, strict=True):
        assert view.shape == (count, channels, 16, 16)
        for number in range(count):
            expected = twin(of_crops[number], recipe, of_view, number)
            torch.testing.assert_close(view[number], expected, rtol=0, atol=1e-4)


def test_each_channel_has_a_factor_of_its_own_within_the_strengths():
    recipe = recipe_of(4, brightness=0.3, contrast=0.6)
    factors = ColorDraws.sample(COUNT, recipe, generator(0)).channel_factors
    assert factors.shape == (COUNT, 2, 4)
    for operation, strength in ((0, 0.3), (1, 0.6)):
        assert factors[:, operation].amin() == pytest.approx(1 - strength, abs=1e-3)
        assert factors[:, operation].amax() == pytest.approx(1 + strength, abs=1e-3)
    assert torch.corrcoef(factors.flatten(1).T).fill_diagonal_(0).abs().max() < 0.05


def test_three_channels_draw_nothing_more():
    with_four, with_three = (ColorDraws.sample(50, recipe_of(n), torch.Generator().manual_seed(0)) for n in (4, 3))
    assert with_three.channel_factors.numel() == 0
    assert torch.equal(with_four.order, with_three.order)
    state, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    ColorDraws.sample(50, recipe_of(3), state)
    torch.rand(50, 9, generator=other), torch.rand(50, 4, generator=other)
    assert torch.equal(state.get_state(), other.get_state())


PLAIN = {"crop_min": 1.0, "jitter_probability": 0.0, "blur_probability": 0.0, "flip_probability": 0.0}
PLAIN |= {"solarize_probability": 0.0, "blur_probability_2": None, "solarize_probability_2": None}


def first_views(images: np.ndarray, workers: int = 0, **changes: object) -> torch.Tensor:
    """First views of a step, in the order of the images."""
    recipe = recipe_of(images.shape[-1], **{**PLAIN, **changes})
    order = EpochOrder(np.arange(len(images)), batch_size=len(images), seed=5)
    make = RecipeViews(recipe, images.shape[1], order, device_type="cpu")
    source = ArraySource(images).in_channels(images.shape[-1])
    loader = ViewLoader(source, order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=workers)
    batches = loader.batches(0)
    (view, _), indices = next(batches)
    batches.close()
    return view[indices.argsort()]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_views_flipped_and_turned_are_those_before_flipped_and_turned(channels):
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12, channels), dtype=np.uint8)
    plain = first_views(images)
    torch.testing.assert_close(first_views(images, vertical_flip_probability=1.0), plain.flip(2))
    turned = first_views(images, rotate_probability=1.0)
    assert torch.equal(turned, first_views(images, rotate_probability=1.0, workers=2))
    quarters = [
        [number for number in range(4) if torch.equal(view, straight.rot90(number, (1, 2)))]
        for view, straight in zip(turned, plain, strict=True)
    ]
    assert all(len(found) == 1 for found in quarters)
    assert {found[0] for found in quarters} == {1, 2, 3}
    assert torch.equal(first_views(images, rotate_probability=0.0), plain)


def test_turns_are_as_often_as_stated_each_as_likely():
    recipe = recipe_of(3, vertical_flip_probability=0.3, rotate_probability=0.6)
    poses = Poses(COUNT, recipe, generator(0))
    assert poses._upset.double().mean().item() == pytest.approx(0.3, abs=0.015)
    shares = torch.bincount(poses._quarters, minlength=4) / COUNT
    torch.testing.assert_close(shares, torch.tensor([0.4, 0.2, 0.2, 0.2]), atol=0.015, rtol=0)
    assert not Poses(COUNT, recipe_of(3), generator(0))._quarters.any()
