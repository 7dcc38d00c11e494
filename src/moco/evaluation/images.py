"""Images and what they show: read once to find the damaged ones, their centre squares in memory while they fit.

N: images   C: channels   S: side of a square in pixels
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from moco.data.base import Source
from moco.data.cache import keep_decoded
from moco.data.image_batches import image_batches
from moco.data.preprocess import Preprocessing, by_pillow, centre_pixels
from moco.data.skipped import SkippedFiles
from moco.errors import DataError

BATCH = 256  # images of a forward pass
MEMORY_BYTES = 2**30  # of squares, and as much again of decoded images where random crops are learnt from
SMALLEST_CROP = 0.08  # of the area, that any protocol takes: one size of a decode for all of them
RESIZE = 256 / 224  # of the papers' test crop: shorter side to this multiple of the crop


class LabelledImages:
    """Images that can all be read.

    Args:
        source: the images.
        targets: (N,) int64 class numbers, or (N, C) float32 of 0 and 1 for several labels an image.
        size: S.
        squares: the centre squares of all images, (N, S, S, C) uint8; None where they are to be read at each use.
    """

    def __init__(self, source: Source, targets: np.ndarray, size: int, squares: np.ndarray | None) -> None:
        self.source, self.targets, self.size = source, torch.from_numpy(targets), size
        self._squares = squares
        self._whole: tuple[LabelledImages, np.ndarray] | None = None  # what this is a subset of, and where

    @classmethod
    def read(
        cls,
        source: Source,
        indices: np.ndarray,
        targets: np.ndarray,
        *,
        size: int,
        skipped: SkippedFiles,
        show: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
    ) -> LabelledImages:
        """The readable ones of some images of a source, in the order of `indices`.

        `targets`: of all images of the source. `skipped` collects the damaged ones; `show` shows the progress of an
        iterable of known length.

        Raises:
            DataError: none of them can be read.
        """
        chosen, kept, squares = source.subset(indices), [], []
        fits = source.channels * size**2 * len(indices) <= MEMORY_BYTES
        batches = image_batches(chosen, functools.partial(centre_pixels, size=size), batch_size=BATCH, skipped=skipped)
        for batch in show(batches, math.ceil(len(indices) / BATCH)):
            kept.append(batch.indices)
            if fits and len(batch.indices):
                squares.append(batch.pixels)
        good = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
        if not len(good):
            raise DataError(f"none of {len(indices)} images of {source.name} can be read: check its files")
        readable = chosen if len(good) == len(indices) else chosen.subset(good)
        return cls(readable, targets[indices[good]], size, np.concatenate(squares) if fits else None)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def steps(self) -> int:
        """Batches of `batches`."""
        return math.ceil(len(self) / BATCH)

    def subset(self, positions: np.ndarray) -> LabelledImages:
        """The images at these positions; shares what is in memory."""
        squares = None if self._squares is None else self._squares[positions]
        part = LabelledImages(self.source.subset(positions), self.targets.numpy()[positions], self.size, squares)
        part._whole = (self, positions)
        return part

    def first(self, count: int) -> LabelledImages:
        """The first `count` images, or all where there are fewer."""
        return self if count >= len(self) else self.subset(np.arange(count))

    def squares(self) -> Iterator[np.ndarray]:
        """The centre squares in order, (n, S, S, C) uint8 at a time."""
        if self._squares is None:
            yield from self.transformed(functools.partial(centre_pixels, size=self.size))
            return
        for start in range(0, len(self), BATCH):
            yield self._squares[start : start + BATCH]

    def batches(
        self, preprocess: Preprocessing, transform: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Iterator[Tensor]:
        """All images in order as a network takes them, (n, C, S, S) float32, channels-last: the centre squares, or
        what a transform makes of the images.
        """
        for pixels in self.squares() if transform is None else self.transformed(transform):
            yield preprocess.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    def transformed(self, transform: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
        """What a transform makes of all images in order, (n, S, S, C) uint8 at a time."""
        skipped = SkippedFiles()
        for batch in image_batches(self.source, transform, batch_size=BATCH, skipped=skipped):
            if skipped.count:
                raise DataError(f"{skipped.items()[0][0]} of {self.source.name} can no longer be read: start again")
            yield batch.pixels

    @functools.cached_property
    def decoded(self) -> Source:
        """For random crops: the images with the pixels that these need, in memory once decoded if all of them fit."""
        if self._whole is not None:
            whole, positions = self._whole
            return whole.decoded.subset(positions)
        return keep_decoded(self.source, np.arange(len(self)), budget=MEMORY_BYTES, min_side=self.min_side)[0]

    @property
    def min_side(self) -> int:
        """Smallest side of a decode whose smallest random crop still has as many pixels as the result."""
        return math.ceil(self.size / math.sqrt(SMALLEST_CROP))


def paper_test_crop(pixels: np.ndarray, *, size: int) -> np.ndarray:
    """Shorter side to 256/224 of `size`, bilinear with antialiasing, then the centred square of `size` pixels."""

    def crop(image: Image.Image) -> Image.Image:
        short = round(RESIZE * size)
        scale = short / min(image.size)
        width, height = (max(short, int(side * scale)) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + size, top + size))

    return by_pillow(pixels, crop)


def watch(items: Iterable[Any], total: int, *, what: str, quiet: bool) -> Any:
    """The items, with a bar that follows them; on a terminal it vanishes at its end, elsewhere it says a line every
    half minute.
    """
    interval = 0.5 if sys.stderr.isatty() else 30.0
    pace: dict[str, Any] = {"mininterval": interval, "maxinterval": 2 * interval}
    return tqdm(items, desc=what, total=total, disable=quiet, leave=False, dynamic_ncols=True, **pace)
