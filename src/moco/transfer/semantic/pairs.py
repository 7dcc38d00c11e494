"""Images with their label maps for training: at a random scale, cropped, mirrored, both alike.

Appendix of 1911.05722: a scale between 0.5 and 2, a crop, a flip.

H, W: height, width   S: side of a crop
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from moco.data.decode import read_pixels
from moco.data.order import VIEWS, Sample, keyed_generator
from moco.transfer.label_maps.mean_iou import VOID
from moco.transfer.label_maps.reading import LabelMaps

SCALES = (0.5, 2.0)


class TrainPairs(Dataset[Any]):
    """Crops (3, S, S) uint8 with label maps (S, S) uint8.

    Args:
        maps: images and label maps.
        crop: S in pixels.
        fill: color of what lies outside the image, whose label is `VOID`.
        seed: of the draws, which follow from it and the sample's step and position alone.
    """

    def __init__(self, maps: LabelMaps, *, crop: int, fill: tuple[int, int, int], seed: int) -> None:
        self.maps, self.crop, self.fill, self.seed = maps, crop, fill, seed

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Tensor]:
        pixels = read_pixels(self.maps.pairs[sample.image][0])
        generator = keyed_generator(self.seed, VIEWS, sample.step, sample.position)
        drawn = torch.rand(4, generator=generator).tolist()
        return random_crop(pixels, self.maps.truth(sample.image), crop=self.crop, fill=self.fill, drawn=drawn)


class TestPairs(Dataset[Any]):
    """Whole images (3, H, W) uint8 with label maps (H, W) uint8, in their order."""

    def __init__(self, maps: LabelMaps) -> None:
        self.maps = maps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = read_pixels(self.maps.pairs[index][0])
        return _tensor(pixels), torch.from_numpy(self.maps.truth(index))


def random_crop(
    pixels: np.ndarray, labels: np.ndarray, *, crop: int, fill: tuple[int, int, int], drawn: list[float]
) -> tuple[Tensor, Tensor]:
    """A square of the image at a random scale: bilinear and antialiased colors, nearest labels.

    An image that is smaller than the square stands in its upper left corner; the rest is `fill` and void.

    Args:
        pixels: (H, W, 3) uint8.
        labels: (H, W) uint8.
        crop: S in pixels.
        fill: color outside the image.
        drawn: four numbers in [0, 1): the scale (evenly between its limits), vertical and horizontal place, mirroring.
    """
    scale = SCALES[0] + drawn[0] * (SCALES[1] - SCALES[0])
    tops, sizes = [], []
    for length, place in zip(labels.shape, drawn[1:3], strict=True):
        scaled = max(1, round(length * scale))
        tops.append(math.floor(place * (max(0, scaled - crop) + 1)) * length / scaled)
        sizes.append((min(crop, scaled), min(crop, scaled) * length / scaled))
    (height, rows), (width, columns) = sizes
    box = (tops[1], tops[0], min(tops[1] + columns, labels.shape[1]), min(tops[0] + rows, labels.shape[0]))
    colors = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box)
    classes = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST, box=box)
    whole, truth = np.empty((crop, crop, 3), np.uint8), np.full((crop, crop), VOID, np.uint8)
    whole[:] = fill
    whole[:height, :width], truth[:height, :width] = np.asarray(colors), np.asarray(classes)
    image, target = _tensor(whole), torch.from_numpy(truth)
    return (image.flip(2), target.flip(1)) if drawn[3] < 0.5 else (image, target)


def _tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) as (3, H, W)."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
