"""Views and inputs that are not square: crops, turns, preparation, positions of a ViT."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from moco.config import Config
from moco.config_file import read_config, write_config
from moco.data.augment import CropBoxes, color_views, draw_colors
from moco.data.order import COLORS, VIEWS, EpochOrder, Sample, keyed_generator
from moco.data.preprocess import Preprocessing, centre_pixels
from moco.data.recipe_views import RecipeViews
from moco.data.views import view_recipe
from moco.encoder.vit import sincos_positions
from moco.errors import ConfigError, DataError
from moco.normalization import IMAGENET
from moco.recipes import configure
from moco.sizes import size_of
from tests.reference.views import naive_photometric

H, W = 12, 20


@pytest.mark.parametrize(
    ("stated", "size"), [(64, 64), ("64", 64), ("64x96", (64, 96)), ([64, 96], (64, 96)), ((96, 96), 96), ("8x8", 8)]
)
def test_a_size_is_the_side_of_a_square_or_height_and_width(stated, size):
    assert size_of(stated) == size
    assert Config(image_size=stated).image_size == size


@pytest.mark.parametrize("stated", ["64y96", "64x", (64, 96, 3), (), 64.0, True, "64x96x3", None, "-8"])
def test_what_is_no_size_is_refused_in_one_line(stated):
    with pytest.raises(ConfigError, match=r"image_size=.*: expected a side in pixels, or HEIGHTxWIDTH as in 64x96$"):
        size_of(stated)


@pytest.mark.parametrize("stated", [7, "7x64", (64, 7)])
def test_a_side_below_eight_is_refused(stated):
    with pytest.raises(ConfigError, match="image_size=(7|7x64|64x7): need at least 8"):
        Config(image_size=stated)


def test_a_configuration_keeps_its_size_in_a_file(tmp_path):
    for size in (64, (64, 96)):
        (tmp_path / "config.yaml").write_text(write_config(Config(image_size=size), None))
        assert read_config(tmp_path / "config.yaml")[0].image_size == size
    assert "image_size: 64\n" in write_config(Config(image_size=64), None)


def views(images: np.ndarray, size, **changes):
    """Both views of a step, with what drew them."""
    off = {"jitter_probability": 0.0, "blur_probability": 0.0, "grayscale_probability": 0.0, "flip_probability": 0.0}
    recipe = view_recipe(configure("v2", {**off, **changes}))
    order = EpochOrder(np.arange(len(images)), batch_size=len(images), seed=5)
    make = RecipeViews(recipe, size, order, device_type="cpu")
    samples = [Sample(0, number, number) for number in range(len(images))]
    return make.in_worker([("", image) for image in images], samples), recipe


def images_of(count: int, height: int = 30, width: int = 41) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_views_are_the_resized_crops_with_their_colours_one_by_one():
    images = images_of(5)
    options = {"jitter_probability": 0.8, "blur_probability": 0.5, "grayscale_probability": 0.3}
    (first, second), recipe = views(images, (H, W), solarize_probability=0.3, **options)
    assert first.shape == second.shape == (5, 3, H, W)
    boxes = CropBoxes(10, crop_min=recipe.crop_min, generator=keyed_generator(5, VIEWS, 0))
    draws = draw_colors(5, torch.arange(5), recipe, keyed_generator(5, COLORS, 0))
    for view, got in enumerate((first, second)):
        for number, image in enumerate(images):
            top, left, height, width = boxes.box(number + 5 * view, *image.shape[:2])
            crop = torch.tensor(image[top : top + height, left : left + width]).permute(2, 0, 1)[None]
            small = interpolate(crop, size=(H, W), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
            expected = naive_photometric(small, recipe, draws[view], number)
            torch.testing.assert_close(got[number], expected, atol=2e-4, rtol=0)


def test_colours_of_a_view_that_is_not_square_are_those_of_its_transpose():
    crops = torch.randint(0, 256, (1, 9, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe = view_recipe(configure("v2", {"solarize_probability": 0.3}))
    draws = draw_colors(9, torch.arange(9), recipe, torch.Generator().manual_seed(1))
    (upright,) = color_views(crops, recipe, draws)
    (lying,) = color_views(crops.transpose(2, 3).contiguous(), recipe, draws)
    torch.testing.assert_close(upright, lying.transpose(2, 3), atol=1e-4, rtol=0)


def test_a_quarter_turn_is_that_of_the_image_and_the_view_keeps_its_shape():
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:8], image[:, :8] = (255, 0, 0), (0, 255, 0)  # top edge red, left edge green
    images = np.repeat(image[None], 24, axis=0)
    (turned, _), _ = views(images, (H, W), rotate_probability=1.0, crop_min=1.0, normalization="0,0,0/1,1,1")
    found = set()
    for view in turned:
        matches = []
        for quarters in range(4):
            straight = torch.tensor(np.rot90(image, quarters).copy()).permute(2, 0, 1)[None]
            expected = interpolate(straight, size=(H, W), mode="bilinear", antialias=True)[0] / 255
            if (view - expected).abs().max() < 0.02:
                matches.append(quarters)
        assert len(matches) == 1, "an image that is turned by quarters and then cropped"
        found.add(matches[0])
    assert found == {1, 2, 3}


@pytest.mark.parametrize(("height", "width"), [(131, 97), (97, 131), (40, 300), (300, 20), (17, 24), (34, 48), (9, 9)])
def test_an_image_is_prepared_as_timm_does_it(height, width):
    timm = pytest.importorskip("timm")
    image = Image.fromarray(images_of(1, height, width)[0])
    preprocess = Preprocessing((17, 24), *IMAGENET)
    transform = timm.data.create_transform(
        (3, 17, 24), is_training=False, interpolation="bilinear", crop_pct=1.0, mean=IMAGENET[0], std=IMAGENET[1]
    )
    torch.testing.assert_close(preprocess(image), transform(image), atol=1e-6, rtol=0)


def test_a_long_strip_is_prepared_from_its_middle():
    strip = np.full((3, 40_000, 3), 255, dtype=np.uint8)
    strip[:, :15_000] = strip[:, 25_000:] = 0
    got = centre_pixels(strip, (16, 400))
    assert got.shape == (16, 400, 3)
    assert (got == 255).all()
    assert (centre_pixels(np.swapaxes(strip, 0, 1), (400, 16)) == 255).all()


def test_preprocessing_is_stored_and_read_back_with_both_sides():
    preprocess = Preprocessing((16, 24), *IMAGENET)
    stated = json.loads(json.dumps(preprocess.as_dict()))
    assert (stated["size"], stated["crop"]) == ([16, 24], "centre")
    assert Preprocessing.from_dict(stated) == preprocess
    assert Preprocessing((24, 24), *IMAGENET) == Preprocessing(24, *IMAGENET)
    assert Preprocessing(24, *IMAGENET).as_dict()["size"] == 24
    with pytest.raises(DataError, match="only .*'crop': 'centre square'"):
        Preprocessing.from_dict({**stated, "size": 16})
    for broken in ([16], [16, 24, 3], [0, 24], "x", None):
        with pytest.raises(DataError):
            Preprocessing.from_dict({**stated, "size": broken})
    assert preprocess(torch.empty(0, 3, 40, 40, dtype=torch.uint8)).shape == (0, 3, 16, 24)


def test_fixed_positions_of_a_grid_are_those_of_its_columns_and_rows():
    rows, columns, width = 3, 5, 16
    grid = sincos_positions(rows, columns, width)[0, 1:].unflatten(0, (rows, columns))
    square = sincos_positions(5, 5, width)[0, 1:].unflatten(0, (5, 5))
    assert torch.equal(grid, square[:rows])  # a place has the same position in a grid of any size
    half = width // 2
    assert torch.equal(grid[0, :, :half], grid[2, :, :half])
    assert torch.equal(grid[:, 0, half:], grid[:, 4, half:])
    assert torch.equal(sincos_positions(columns, rows, width)[0, 1:].unflatten(0, (5, 3)), square[:, :rows])


def test_images_larger_than_needed_are_decoded_for_the_longer_side():
    recipe = view_recipe(configure("v2", {"crop_min": 0.25}))
    assert recipe.min_side((16, 40)) == recipe.min_side((40, 16)) == recipe.min_side(40) == 80
