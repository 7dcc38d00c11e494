"""Random resized crops, one image at a time: torchvision's distribution, resampled in uint8 with antialiasing.

The resampling is Pillow's BILINEAR to one level of 255, at a fraction of its time where the processor has AVX2.

H, W: height and width of the image   S: side of the result
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import interpolate

RATIO = (3.0 / 4.0, 4.0 / 3.0)  # smallest and largest width of a crop, as shares of its height
ATTEMPTS = 10  # of torchvision's RandomResizedCrop, before it falls back to the centre
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


class CropBoxes:
    """All that is random about a number of crops; a box follows once its image's size is known.

    Area uniform from `crop_min` to 1 (shares of the image), aspect ratio log-uniform in RATIO; the first of ten
    attempts that fits, else the largest centre box of an allowed ratio. The distribution of torchvision's
    RandomResizedCrop.

    Args:
        count: crops.
        crop_min: smallest area of a crop, as a share of the image.
        generator: where the draws come from.
    """

    def __init__(self, count: int, *, crop_min: float, generator: torch.Generator) -> None:
        draws = torch.rand(4, count, ATTEMPTS, generator=generator, dtype=torch.float64).numpy()
        share = crop_min + (1.0 - crop_min) * draws[0]
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


def resized_crop(pixels_HWC: np.ndarray, box: Box, flip: bool, out_SSC: np.ndarray) -> None:
    """Crop, resize and mirror one image into `out_SSC`, (S, S, 3) uint8."""
    top, left, height, width = box
    size = len(out_SSC)
    crop = torch.from_numpy(pixels_HWC[top : top + height, left : left + width].copy())
    # Strides as of a channels-last batch, so that the result is laid out in the same way and copied in one run.
    small = interpolate(crop.unsqueeze(0).permute(0, 3, 1, 2), size=(size, size), mode="bilinear", antialias=True)
    out_SSC[:] = (small.flip(3) if flip else small).permute(0, 2, 3, 1)[0].numpy()
