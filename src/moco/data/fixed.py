"""Images as evaluation sees them: the centre square at one size, no augmentation, held as uint8."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from moco.data.ahead import default_workers
from moco.data.preprocess import centre_pixels
from moco.data.skipped import SkippedFiles
from moco.data.source import DamagedImage, Source
from moco.errors import DataError

SMALL = 128  # pixels a side; up to it, where nothing is to be decoded, threads cost more than they save (docs/log.md)


def fixed_images(
    source: Source, indices: np.ndarray, *, image_size: int, skipped: SkippedFiles
) -> tuple[np.ndarray, np.ndarray]:
    """Centre squares, (N, image_size, image_size, 3) uint8, and the indices that could be read.

    Raises:
        DataError: none of them can be read.
    """
    out = np.empty((len(indices), image_size, image_size, 3), dtype=np.uint8)
    good = np.ones(len(indices), dtype=bool)

    def load(position: int) -> None:
        index = int(indices[position])
        try:
            pixels = source.pixels(index, min_side=image_size)
        except DamagedImage as error:
            skipped.add(source.item_name(index), str(error))
            good[position] = False
            return
        out[position] = centre_pixels(pixels, image_size)

    array = source.uniform_array()
    if array is not None and max(array.shape[1:3]) <= SMALL:
        for position in range(len(indices)):
            load(position)
    else:
        with ThreadPoolExecutor(default_workers()) as pool:
            for _ in pool.map(load, range(len(indices))):
                pass
    if not good.any():
        raise DataError(f"none of {len(indices)} images for evaluation can be read: check {source.name}")
    return out[good], indices[good]


def normalized_batches(
    images_NHWC: np.ndarray, *, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int
) -> Iterator[Tensor]:
    """Batches as the network sees them, (n, 3, H, W) float32, channels-last."""
    mean_C11 = torch.tensor(mean).view(-1, 1, 1)
    std_C11 = torch.tensor(std).view(-1, 1, 1)
    for start in range(0, len(images_NHWC), batch_size):
        pixels = torch.from_numpy(images_NHWC[start : start + batch_size]).permute(0, 3, 1, 2).float() / 255
        yield ((pixels - mean_C11) / std_C11).contiguous(memory_format=torch.channels_last)
