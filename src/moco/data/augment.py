"""The parts of a view: a random resized crop of each image, mirrored and turned, then colours on the batch.

N: samples of a rank's share of a step   C: channels   H, W: of an image or a view   V: views, 1 or 2
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from moco.data import photometric
from moco.data.bands import RGB
from moco.data.views import ViewRecipe
from moco.sizes import Size, height_width

RATIO = (3.0 / 4.0, 4.0 / 3.0)  # smallest and largest width of a crop, as shares of its height
ATTEMPTS = 10  # of torchvision's RandomResizedCrop, before it falls back to the centre
HUE = 3  # its number among brightness, contrast, saturation, hue
BLOCK_PIXELS = 2**17  # of the images that are worked on together on a CPU: they stay in its cache
SMALLEST_BLOCK = 8  # images; below, calling the operations costs more than they do
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


class Poses:
    """How so many crops are mirrored and turned."""

    def __init__(self, count: int, recipe: ViewRecipe, generator: torch.Generator) -> None:
        self._flips = torch.rand(count, generator=generator) < recipe.flip_probability
        upset, turned, quarters = torch.rand(3, count, generator=generator)
        self._upset = upset < recipe.vertical_flip_probability
        self._quarters = (1 + (3 * quarters).long()) * (turned < recipe.rotate_probability)

    def place(self, number: int, pixels_HWC: np.ndarray, box: Box, crop_HWC: Tensor) -> None:
        """Crop an image into `crop_HWC`, mirrored and turned as crop `number` was drawn.

        A quarter turn of a crop that is not square comes before its resizing, so that the view keeps its shape.
        """
        height, width, channels = crop_HWC.shape
        quarters = int(self._quarters[number])
        canvas = crop_HWC.new_empty(width, height, channels) if quarters % 2 and height != width else crop_HWC
        resized_crop(pixels_HWC, box, bool(self._flips[number]), canvas.numpy())
        if self._upset[number]:
            canvas.copy_(canvas.flip(0))
        if quarters:
            crop_HWC.copy_(canvas.rot90(quarters))


class CropBoxes:
    """All that is random about a number of crops; a box follows once its image's size is known.

    Area uniform from `crop_min` to `crop_max` (shares of the image), aspect ratio log-uniform in RATIO; the first of
    ten attempts that fits, else the largest centre box of an allowed ratio: torchvision's RandomResizedCrop.
    """

    def __init__(self, count: int, *, crop_min: float, crop_max: float = 1.0, generator: torch.Generator) -> None:
        draws = torch.rand(4, count, ATTEMPTS, generator=generator, dtype=torch.float64).numpy()
        share = crop_min + (crop_max - crop_min) * draws[0]
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        aspect = np.exp(low + (high - low) * draws[1])
        # Sides of a crop for an image of area 1.
        self._heights, self._widths = np.sqrt(share / aspect), np.sqrt(share * aspect)
        self._tops, self._lefts = draws[2], draws[3]

    def box(self, number: int, height: int, width: int) -> Box:
        """Crop `number` of an image of this size."""
        root = math.sqrt(height * width)
        sides = zip(self._heights[number].tolist(), self._widths[number].tolist(), strict=True)
        for attempt, (unit_height, unit_width) in enumerate(sides):
            box_height, box_width = round(root * unit_height), round(root * unit_width)
            if 0 < box_height <= height and 0 < box_width <= width:
                top = int(self._tops[number, attempt] * (height - box_height + 1))
                left = int(self._lefts[number, attempt] * (width - box_width + 1))
                return top, left, box_height, box_width
        return _centre(height, width)


def _centre(height: int, width: int) -> Box:
    low, high = RATIO
    box_width = round(height * high) if width / height > high else width
    box_height = round(width / low) if width / height < low else height
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


class Windows:
    """All that is random about a number of crops of the view's own size: where they lie, every place as likely.

    An image in which the window does not fit gives the largest centre box of its shape.
    """

    def __init__(self, count: int, *, size: Size, generator: torch.Generator) -> None:
        self._height, self._width = height_width(size)
        self._tops, self._lefts = torch.rand(2, count, generator=generator, dtype=torch.float64).tolist()

    def box(self, number: int, height: int, width: int) -> Box:
        """Crop `number` of an image of this size."""
        scale = min(height / self._height, width / self._width, 1.0)
        box_height, box_width = max(1, round(scale * self._height)), max(1, round(scale * self._width))
        if scale < 1.0:
            return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
        top, left = self._tops[number] * (height - box_height + 1), self._lefts[number] * (width - box_width + 1)
        return int(top), int(left), box_height, box_width


def resized_crop(pixels_HWC: np.ndarray, box: Box, flip: bool, out_HWC: np.ndarray) -> None:
    """Crop, resize and mirror one image into `out_HWC`, uint8, whose shape is that of the view.

    Resampled as by Pillow's BILINEAR, to one level of 255, at a fraction of its time where the processor has AVX2.
    """
    top, left, height, width = box
    if (height, width) == out_HWC.shape[:2]:
        window = pixels_HWC[top : top + height, left : left + width]
        out_HWC[:] = window[:, ::-1] if flip else window
        return
    crop = torch.from_numpy(pixels_HWC[top : top + height, left : left + width].copy())
    # Strides as of a channels-last batch, so that the result is laid out in the same way and copied in one run.
    small = interpolate(crop.unsqueeze(0).permute(0, 3, 1, 2), size=out_HWC.shape[:2], mode="bilinear", antialias=True)
    out_HWC[:] = (small.flip(3) if flip else small).permute(0, 2, 3, 1)[0].numpy()


@dataclasses.dataclass(frozen=True)
class ColorDraws:
    """Every random number of the photometric part, one a sample, on the CPU.

    Rows of a GPU's tensor that are chosen by numbers from the CPU would make the CPU wait for all of the GPU's work, so
    what is made of the draws is sent to the images' device.

    Attributes:
        jitter: (N,) bool, whether the colours change; `order`: (N, 4), the order of brightness, contrast, saturation,
            hue; `factors`: (N, 4), their parameters.
        gray, blur, solarize: (N,) bool; `sigmas`: (N,) pixels.
        channel_factors: (N, 2, C), of brightness and contrast; of three channels none are drawn.
    """

    jitter: Tensor
    order: Tensor
    factors: Tensor
    gray: Tensor
    blur: Tensor
    sigmas: Tensor
    solarize: Tensor
    channel_factors: Tensor

    @classmethod
    def sample(cls, count: int, recipe: ViewRecipe, generator: torch.Generator) -> Self:
        """Draw for `count` samples."""
        uniform = torch.rand(count, 9, generator=generator)
        strengths = (recipe.brightness, recipe.contrast, recipe.saturation)
        low = torch.tensor([*(max(0.0, 1.0 - s) for s in strengths), -recipe.hue])
        high = torch.tensor([*(1.0 + s for s in strengths), recipe.hue])
        first, last = recipe.blur_sigma
        order = torch.rand(count, 4, generator=generator).argsort(dim=1)
        own = torch.rand(count, 2, 0 if recipe.channels == RGB else recipe.channels, generator=generator)
        return cls(
            jitter=uniform[:, 0] < recipe.jitter_probability,
            order=order,
            factors=low + (high - low) * uniform[:, 1:5],
            gray=uniform[:, 5] < recipe.grayscale_probability,
            blur=uniform[:, 6] < recipe.blur_probability,
            sigmas=first + (last - first) * uniform[:, 7],
            solarize=uniform[:, 8] < recipe.solarize_probability,
            channel_factors=low[:2, None] + (high - low)[:2, None] * own,
        )

    def blend_shares(self) -> Tensor:
        """Shares of image, grey image and mean at each place of the order, (4, 3, N); at a hue's place (1, 0, 0)."""
        factors_4N = self.factors.gather(1, self.order).T
        contrast, saturation, hue = ((self.order == number).T for number in (1, 2, HUE))
        rest_4N = 1.0 - factors_4N
        image = torch.where(hue, 1.0, factors_4N)
        return torch.stack([image, rest_4N * saturation, rest_4N * contrast], dim=1)

    def at(self, rows: Tensor) -> Self:
        """The draws of some samples."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


def draw_colors(step_size: int, positions: Tensor, recipe: ViewRecipe, generator: torch.Generator) -> list[ColorDraws]:
    """The draws of both views of the samples at `positions` in a step of `step_size` samples over all ranks.

    Both views take theirs from the same stream, so that a second view of its own kind changes nothing of the first.
    """
    start = generator.get_state()
    draws = ColorDraws.sample(2 * step_size, recipe, generator)
    generator.set_state(start)
    second = draws if recipe.second == recipe else ColorDraws.sample(2 * step_size, recipe.second, generator)
    return [draws.at(positions), second.at(step_size + positions)]


def color_views(crops_VNHWC: Tensor, recipe: ViewRecipe, draws: list[ColorDraws]) -> tuple[Tensor, ...]:
    """From crops (V, N, H, W, C) uint8 to V views (N, C, H, W) float32, normalised, channels-last, on their device.

    `draws`: of each view's N samples. On a CPU the batch is worked on in blocks that stay in its cache.
    """
    return tuple(_color_one_view(crops, recipe, of_view) for crops, of_view in zip(crops_VNHWC, draws, strict=False))


def _color_one_view(crops_NHWC: Tensor, recipe: ViewRecipe, draws: ColorDraws) -> Tensor:
    count, height, width, channels = crops_NHWC.shape
    block = max(SMALLEST_BLOCK, BLOCK_PIXELS // (height * width)) if crops_NHWC.device.type == "cpu" else count
    view_NHWC = torch.empty(count, height, width, channels, device=crops_NHWC.device)
    for start in range(0, count, block):
        rows = slice(start, min(start + block, count))
        planes = torch.empty(rows.stop - start, channels, height, width, device=crops_NHWC.device)
        planes.copy_(crops_NHWC[rows].permute(0, 3, 1, 2))
        finished = augment_colors_(planes, recipe, draws.at(torch.arange(start, rows.stop)))
        torch.stack(finished.unbind(1), dim=-1, out=view_NHWC[rows])  # faster than to interleave by a copy
    return view_NHWC.permute(0, 3, 1, 2)


def augment_colors_(images: Tensor, recipe: ViewRecipe, draws: ColorDraws) -> Tensor:
    """Everything after the crop, on float images in [0, 255], (N, C, H, W); their memory is used for the work.

    Samples are worked on in the order of the place at which each turns its hue, so that each operation finds its
    samples side by side and nothing has to be gathered in between.
    """
    if images.shape[1] != RGB:
        return _augment_channels_(images, recipe, draws)
    hue_place = torch.where(draws.jitter, (draws.order == HUE).int().argmax(dim=1), 4)
    sequence = hue_place.argsort(stable=True)
    borders = torch.searchsorted(hue_place[sequence], torch.arange(5)).tolist()
    draws = draws.at(sequence)
    images = images.index_select(0, sequence.to(images.device, non_blocking=True)).mul_(1.0 / 255.0)
    if recipe.grayscale_first:
        _where_(images, draws.gray, photometric.grayscale)
    _jitter_(images, draws, borders)
    if not recipe.grayscale_first:
        _where_(images, draws.gray, photometric.grayscale)
    _where_(images, draws.blur, photometric.gaussian_blur, draws.sigmas)
    _where_(images, draws.solarize, photometric.solarize)
    photometric.normalize_(images, recipe.mean, recipe.std)
    return images.index_select(0, sequence.argsort().to(images.device, non_blocking=True))


def _augment_channels_(images: Tensor, recipe: ViewRecipe, draws: ColorDraws) -> Tensor:
    """The same for channels that are not red, green and blue: no hue, no saturation, no grey."""
    images = images.mul_(1.0 / 255.0)
    contrast_first = draws.order.argsort(dim=1)[:, :2].argmin(dim=1) == 1
    for swapped in (False, True):
        chosen = draws.jitter & (contrast_first == swapped)
        adjust = functools.partial(photometric.adjust_channels, contrast_first=swapped)
        _where_(images, chosen, adjust, *draws.channel_factors.unbind(dim=1))
    _where_(images, draws.blur, photometric.gaussian_blur, draws.sigmas)
    _where_(images, draws.solarize, photometric.solarize)
    return photometric.normalize_(images, recipe.mean, recipe.std)


def _jitter_(images: Tensor, draws: ColorDraws, borders: list[int]) -> None:
    """The four operations, each sample in its own order; samples from `borders[p]` to `borders[p + 1]` turn at p."""
    jittered = borders[4]
    if jittered == 0:
        return
    shares, shifts = (
        part.to(images.device, non_blocking=True) for part in (draws.blend_shares(), draws.factors[:, HUE])
    )
    for place in range(4):
        start, stop = borders[place], borders[place + 1]
        for part in (slice(0, start), slice(stop, jittered)):
            if part.start < part.stop:
                photometric.blend_(images[part], *shares[place, :, part])
        if start < stop:
            photometric.adjust_hue_(images[start:stop], shifts[start:stop])


def _where_(images: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> None:
    """Apply the operation to the chosen samples; `chosen` and `parameters` lie on the CPU, as all draws do."""
    numbers = chosen.nonzero()[:, 0]
    if len(numbers):
        index, *theirs = (
            part.to(images.device, non_blocking=True) for part in (numbers, *(p[numbers] for p in parameters))
        )
        images.index_copy_(0, index, operation(images.index_select(0, index), *theirs))
