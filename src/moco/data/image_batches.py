"""The loader of everything but pretraining, on PyTorch's DataLoader: images once in order, or passes of random crops.

N: images of the source   n: images of a batch   C: channels   H, W: height and width, of a result
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from moco.data.augment import CropBoxes, resized_crop
from moco.data.base import Source
from moco.data.decode import DamagedImage
from moco.data.order import CROPS, keyed_generator
from moco.data.skipped import SkippedFiles
from moco.data.workers import default_workers, make_loader, start_workers, worker_deaths
from moco.sizes import Size, height_width

SMALL = 128  # pixels a side; up to it, where nothing is to be decoded, processes cost more than they save
Key = tuple[int, int]  # epoch, index of the image


class ImageBatch(NamedTuple):
    """The readable ones of the images before `stop` that no earlier batch held.

    Attributes:
        stop: index after the last image looked at.
        indices: of those that could be read, (n,) int64.
        pixels: what the transform made of them, (n, H, W, C) uint8.
    """

    stop: int
    indices: np.ndarray
    pixels: np.ndarray


def image_batches(
    source: Source,
    transform: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int,
    skipped: SkippedFiles,
    first: int = 0,
    workers: int | None = None,
) -> Generator[ImageBatch]:
    """All images from `first` on, once, in order; memory holds a few batches. Close it to end its processes early.

    Args:
        source: the images.
        transform: from an image (H, W, C) uint8 to uint8 of one shape for all images.
        batch_size: images looked at for one batch; damaged ones are left out.
        skipped: collects the damaged images.
        first: index of the first image.
        workers: processes; None means as many as cores, at most 16, and none for small images of an array.

    Raises:
        RunError: a worker was killed.
    """
    spans = [range(start, min(start + batch_size, len(source))) for start in range(first, len(source), batch_size)]
    images = _Images(source, functools.partial(_fixed, transform))
    loader = _loader(images, [[(0, index) for index in span] for span in spans], len(spans), workers)
    with contextlib.closing(_read(loader, source, skipped)) as made:
        for span, (indices, pixels) in zip(spans, made, strict=True):
            yield ImageBatch(span.stop, indices, pixels)


class PassOrder:
    """The images of each batch of a pass in random order, as a batch sampler; set `epoch` before each pass.

    The last batch holds what is left; a single image left over joins the batch before it, for BatchNorm's sake.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int) -> None:
        self._count, self.seed, self.epoch = count, seed, 0
        self._ends = list(range(batch_size, count - 1, batch_size))

    def __len__(self) -> int:
        return len(self._ends) + 1

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self._count, generator=keyed_generator(self.seed, CROPS, self.epoch)).numpy()
        return ([(self.epoch, int(index)) for index in part] for part in np.split(order, self._ends))


def crop_passes(
    source: Source, order: PassOrder, *, size: Size, crop_min: float, skipped: SkippedFiles, min_side: int | None = None
) -> Callable[[int], Generator[tuple[np.ndarray, np.ndarray]]]:
    """From an epoch to the batches of a pass: indices (n,), and random resized crops (n, H, W, C) uint8.

    Crops are mirrored with probability 1/2. They follow from the order's seed, epoch and image alone. Arguments as for
    `image_batches`, and `crop_min`: smallest area of a crop, as a share; `min_side`: see `Source.image`.
    """
    loader = _loader(
        _Images(source, functools.partial(_cropped, size, crop_min, order.seed), min_side), order, len(order)
    )

    def one_pass(epoch: int) -> Generator[tuple[np.ndarray, np.ndarray]]:
        order.epoch = epoch
        return _read(loader, source, skipped)

    return one_pass


class _Images(Dataset[Any]):
    """Reads a batch at a time, given its keys: indices, what was made of them, and which are damaged and why."""

    def __init__(self, source: Source, make: Callable[..., np.ndarray], min_side: int | None = None) -> None:
        self.source, self._make, self._min_side = source, make, min_side

    def __getitems__(self, keys: list[Key]) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
        made: dict[int, np.ndarray] = {}
        damaged = []
        for key in keys:
            try:
                with self.source.reading(0, *key):
                    pixels = self.source.pixels(key[1], min_side=self._min_side)
                made[key[1]] = self._make(pixels, key)
            except DamagedImage as error:
                damaged.append((key[1], error.reason))
        together = np.stack(list(made.values())) if made else np.empty((0, 1, 1, self.source.channels), dtype=np.uint8)
        return np.array(list(made), dtype=np.int64), together, damaged


def _fixed(transform: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, key: Key) -> np.ndarray:
    return transform(pixels)


def _cropped(size: Size, crop_min: float, seed: int, pixels: np.ndarray, key: Key) -> np.ndarray:
    generator = keyed_generator(seed, CROPS, *key)
    box = CropBoxes(1, crop_min=crop_min, generator=generator).box(0, *pixels.shape[:2])
    out = np.empty((*height_width(size), pixels.shape[2]), dtype=np.uint8)
    resized_crop(pixels, box, bool(torch.rand((), generator=generator) < 0.5), out)
    return out


def _loader(images: _Images, batches: Iterable[list[Key]], count: int, workers: int | None = None) -> DataLoader[Any]:
    if workers is None:
        shape = images.source.uniform_shape
        small = shape is not None and max(shape) <= SMALL
        workers = 0 if small or count < 2 else min(default_workers(), count)
    options: dict[str, Any] = {"persistent_workers": True} if workers else {}
    # `tuple`: batches are arrays that come through a pipe, since containers often have little shared memory.
    return make_loader(images, batches, workers=workers, collate_fn=tuple, **options)


def _read(loader: DataLoader[Any], source: Source, skipped: SkippedFiles) -> Generator[tuple[np.ndarray, np.ndarray]]:
    with worker_deaths("try fewer workers"):
        for indices, pixels, damaged in start_workers(loader):
            for index, reason in damaged:
                skipped.add(source.item_name(index), reason)
            yield indices, pixels
