"""What the recipes' views are, as published; the configuration decides all of it."""

import dataclasses

import pytest

from moco.data.views import view_recipe
from moco.normalization import CIFAR, IMAGENET
from moco.recipes import configure
from tests.data.examples import PLAIN, RECIPES

# As the papers, the authors' repository and their CIFAR demonstration have them; the book is our own.
V2 = {
    "crop_min": 0.2,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter_probability": 0.8,
    "grayscale_probability": 0.2,
    "grayscale_first": False,
    "blur_probability": 0.5,
    "blur_sigma": (0.1, 2.0),
    "solarize_probability": 0.0,
    "flip_probability": 0.5,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
V3 = {**V2, "saturation": 0.2, "blur_probability": 1.0}
CIFAR_COLORS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
UNCHANGED = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
PUBLISHED = {
    "auto": V2,
    "fast": V2,
    "v1": {**V2, "hue": 0.4, "jitter_probability": 1.0, "grayscale_first": True, "blur_probability": 0.0},
    "v2": V2,
    "v3": V3,
    "v3-vit": {**V3, "crop_min": 0.08},
    "cifar": {**V2, "crop_min": 0.08, "blur_probability": 0.0, **CIFAR_COLORS},
    "curl": {**V2, **{f"{name}_probability": 0.0 for name in ("jitter", "grayscale", "blur", "flip")}, **UNCHANGED},
    "picturebook": {**V2, "crop_min": 0.4, "hue": 0.5, "grayscale_probability": 0.5, "blur_probability": 0.0},
}


@pytest.mark.parametrize("name", RECIPES)
def test_views_are_those_that_were_published(name):
    recipe = RECIPES[name]
    assert {key: getattr(recipe, key) for key in V2} == PUBLISHED[name]
    second = {"blur_probability": 0.1, "solarize_probability": 0.2} if name.startswith("v3") else {}
    assert {key: getattr(recipe.second, key) for key in V2} == {**PUBLISHED[name], **second}
    assert recipe.second.second == recipe.second


def test_the_configuration_decides():
    options = {
        "crop_min": 0.3,
        "brightness": 0.11,
        "contrast": 0.12,
        "saturation": 0.13,
        "hue": 0.14,
        "jitter_probability": 0.15,
        "grayscale_probability": 0.16,
        "grayscale_first": True,
        "blur_probability": 0.17,
        "blur_probability_2": 0.18,
        "solarize_probability": 0.19,
        "solarize_probability_2": 0.21,
        "flip_probability": 0.22,
    }
    recipe = view_recipe(configure("v2", {**options, "normalization": "cifar"}))
    assert {key: getattr(recipe, key) for key in options} == options
    assert (recipe.mean, recipe.std) == CIFAR
    assert view_recipe(configure("v2", {})).mean == IMAGENET[0]


@pytest.mark.parametrize("crop_min", [0.08, 0.2, 1.0])
def test_decoding_at_reduced_size_leaves_the_smallest_crop_enough_pixels(crop_min):
    side = dataclasses.replace(PLAIN, crop_min=crop_min).min_side(224)
    assert crop_min * side**2 >= 224**2 * (1 - 1e-9)
    assert crop_min * (side - 2) ** 2 < 224**2, "and no more than that"
