"""Every photometric operation is torchvision's, with one parameter for each sample of the batch.

torchvision takes one parameter for a whole batch, so each sample is compared on its own. Tolerances are for images in
[0, 1]: both sides compute in float32 with the terms in another order, so they agree to a few units in the last place
(1 grey value of an 8-bit image is 0.004). Pillow is no yardstick here: it rounds hue and saturation to 8 bits and
approximates the Gaussian by boxes. The hue has a second one, `colorsys` of the standard library, in float64.
"""

import colorsys
import math

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from moco.data import photometric

EXACT = 2e-6  # sums of three products, and a mean over the image
HUE = 4e-6  # division by the chroma and back
BLUR = 4e-6  # sums over up to 32 pixels, twice


def pictures(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Noise, then flat and pure colours, ties between channels, near greys and the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, height, width, generator=generator)
    images[0] = 0.0
    images[1] = 1.0
    images[2] = 0.5
    images[3] = (images[3] * 2).round()  # corners of the colour cube, and its edges' middles
    images[4] = torch.rand(height, width, generator=generator)  # grey
    images[5] = images[4] + 1e-6 * images[5]  # almost grey
    images[6, 1] = images[6, 0]  # two channels tie
    images[7, 2] = images[7, 1]
    images[8] = (images[8] * 255).round() / 255
    return images.clamp_(0, 1)


def parameters(count: int, low: float, high: float, extremes: list[float], seed: int) -> torch.Tensor:
    """Uniform, with the extremes in random places."""
    generator = torch.Generator().manual_seed(seed + 1000)
    values = low + (high - low) * torch.rand(count, generator=generator)
    places = torch.randperm(count, generator=generator)[: len(extremes)]
    values[places] = torch.tensor(extremes)
    return values


FACTORS = (0.6, 1.4, [0.0, 1.0, 2.0, 7.5], EXACT)
SIZES = [(16, 16), (9, 23), (1, 1), (1, 17), (32, 32)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high", "extremes", "tolerance"),
    [
        (
            lambda x, f: photometric.blend_(x, f, 0 * f, 0 * f),
            F.adjust_brightness,
            0.6,
            1.4,
            [0.0, 1.0, 2.0, 7.5],
            EXACT,
        ),
        (lambda x, f: photometric.blend_(x, f, 0 * f, 1 - f), F.adjust_contrast, *FACTORS),
        (
            lambda x, f: photometric.blend_(x, f, 1 - f, 0 * f),
            F.adjust_saturation,
            0.6,
            1.4,
            [0.0, 1.0, 2.0, 7.5],
            EXACT,
        ),
        (photometric.adjust_hue_, F.adjust_hue, -0.5, 0.5, [-0.5, 0.5, 0.0, 1 / 3, -1 / 6, 1e-7], HUE),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_colour_operation_is_torchvisions_with_each_samples_own_parameter(
    ours, theirs, low, high, extremes, tolerance, height, width
):
    for seed in range(4):
        images = pictures(48, height, width, seed)
        values = parameters(48, low, high, extremes, seed)
        result = ours(images.clone(), values)
        assert result.shape == images.shape
        for image, value, got in zip(images, values.tolist(), result, strict=True):
            # Beyond a factor of 1 the rounding of the operands grows with it.
            atol = tolerance * max(1.0, abs(value))
            torch.testing.assert_close(got, theirs(image, value), rtol=0, atol=atol, msg=f"parameter {value}")


def test_hue_agrees_with_the_standard_library():
    images = pictures(40, 3, 3, seed=3)
    shifts = parameters(40, -0.5, 0.5, [-0.5, 0.5, 0.0], seed=3)
    turned = photometric.adjust_hue_(images.clone(), shifts)
    for image, shift, got in zip(images.double(), shifts.tolist(), turned, strict=True):
        for pixel, seen in zip(image.flatten(1).T.tolist(), got.flatten(1).T.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            assert seen == pytest.approx(colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value), abs=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_grey_is_torchvisions(height, width):
    images = pictures(24, height, width, seed=0)
    grey = photometric.grayscale(images)
    torch.testing.assert_close(grey, F.rgb_to_grayscale(images, num_output_channels=3), rtol=0, atol=EXACT)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])


def kernel_size(sigma: float, size: int) -> int:
    """Eight sigmas to either side, as far as torchvision can reflect the image; the rest weighs less than 1e-13."""
    return 2 * min(math.ceil(8 * sigma), size - 1) + 1


@pytest.mark.parametrize(("height", "width"), [(16, 16), (18, 27), (32, 32), (40, 17)])
def test_blur_is_torchvisions_with_a_wide_kernel_and_each_samples_own_sigma(height, width):
    images = pictures(24, height, width, seed=7)
    sigmas = parameters(24, 0.1, 2.0, [0.1, 2.0, 0.01, 0.5, 1.0], seed=7)
    before = images.clone()
    blurred = photometric.gaussian_blur(images, sigmas)
    assert torch.equal(images, before)
    for image, sigma, got in zip(images, sigmas.tolist(), blurred, strict=True):
        sizes = [kernel_size(sigma, width), kernel_size(sigma, height)]
        torch.testing.assert_close(got, F.gaussian_blur(image, sizes, [sigma, sigma]), rtol=0, atol=BLUR)


def test_blur_keeps_flat_images_and_tiny_ones_finite():
    flat = torch.full((3, 3, 1, 12), 0.7)
    sigmas = torch.tensor([0.1, 1.0, 2.0])
    torch.testing.assert_close(photometric.gaussian_blur(flat, sigmas), flat, rtol=0, atol=1e-6)
    single = torch.rand(3, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(photometric.gaussian_blur(single, sigmas), single, rtol=0, atol=1e-6)


def test_solarize_is_torchvisions():
    images = pictures(24, 12, 13, seed=2)
    assert (images == 0.5).any()  # the threshold itself is inverted
    assert torch.equal(photometric.solarize(images), F.solarize(images, 0.5))


def test_normalize_is_torchvisions():
    images = pictures(24, 12, 13, seed=4)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    # Values up to 3 here, so a unit in the last place is larger.
    torch.testing.assert_close(
        photometric.normalize_(images.clone(), mean, std), F.normalize(images, mean, std), rtol=0, atol=1e-6
    )
