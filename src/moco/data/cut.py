"""Crops of images one at a time: boxes for sizes that come to light at decoding, and the resampling in uint8.

The boxes have the distribution of `crop.sample_crops`, from the same draws. The resampling is Pillow's BILINEAR with
antialiasing, to one level of 255, at a fraction of its time where the processor has AVX2.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import interpolate

from moco.data.crop import ATTEMPTS, RATIO

# PyTorch splits an operation on more elements over threads, of which each worker here would start a team of its own.
SERIAL = 2**15
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


class BoxDraws:
    """All that is random about a number of crops; the boxes follow once the images' sizes are known.

    Args:
        count: crops.
        scale: smallest and largest area of a crop, as shares of the image.
        ratio: smallest and largest width of a crop, as shares of its height.
        generator: where the draws come from.
    """

    def __init__(
        self,
        count: int,
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float] = RATIO,
        generator: torch.Generator,
    ) -> None:
        draws = torch.rand(4, count, ATTEMPTS, generator=generator, dtype=torch.float64).numpy()
        share = scale[0] + (scale[1] - scale[0]) * draws[0]
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = np.exp(low + (high - low) * draws[1])
        # Sides of a crop for an image of area 1.
        self._heights, self._widths = np.sqrt(share / aspect), np.sqrt(share * aspect)
        self._tops, self._lefts = draws[2], draws[3]
        self._ratio = ratio

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
        return self._centre(height, width)

    def _centre(self, height: int, width: int) -> Box:
        """The largest centre box of an allowed ratio."""
        low, high = self._ratio
        box_width = round(height * high) if width / height > high else width
        box_height = round(width / low) if width / height < low else height
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resized_crop_pixels(pixels_HWC: np.ndarray, box: Box, flip: bool, out_SSC: np.ndarray) -> None:
    """Crop, resize and mirror one image into `out_SSC`, (size, size, 3) uint8; releases the interpreter lock."""
    top, left, height, width = box
    size = len(out_SSC)
    crop = torch.from_numpy(pixels_HWC[top : top + height, left : left + width].copy())
    # Strides as of a channels-last batch, so that the result is laid out in the same way and copied in one run.
    small = interpolate(crop.unsqueeze(0).permute(0, 3, 1, 2), size=(size, size), mode="bilinear", antialias=True)
    if not flip:
        out_SSC[:] = small.permute(0, 2, 3, 1)[0].numpy()
        return
    rows = max(1, SERIAL // (3 * size))
    for start in range(0, size, rows):
        out_SSC[start : start + rows] = small[:, :, start : start + rows].flip(3).permute(0, 2, 3, 1)[0].numpy()
