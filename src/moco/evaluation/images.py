"""Images and what they show: read once to find the damaged ones, their centres in memory while they fit.

N: images   C: channels   H, W: height and width of what is kept, in pixels
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
from moco.data.preprocess import Preprocessing, by_pillow, centre_pixels, cut_centre
from moco.data.skipped import SkippedFiles
from moco.errors import DataError
from moco.sizes import Size, height_width

BATCH = 256  # images of a forward pass
MEMORY_BYTES = 2**30  # of centres, and as much again of decoded images where random crops are learnt from
SMALLEST_CROP = 0.08  # of the area, that any protocol takes: one size of a decode for all of them
RESIZE = 256 / 224  # of the papers' test crop: shorter side to this multiple of the crop


class LabelledImages:
    """Images that can all be read.

    Args:
        source: the images.
        targets: (N,) int64 class numbers, or (N, C) float32 of 0 and 1 for several labels an image.
        size: H and W.
        centres: of all images, (N, H, W, C) uint8; None where they are to be read at each use.
        resize: as of `Preprocessing`.
    """

    def __init__(
        self, source: Source, targets: np.ndarray, size: Size, centres: np.ndarray | None, *, resize: bool = True
    ) -> None:
        self.source, self.targets, self.size, self.resize = source, torch.from_numpy(targets), size, resize
        self._centres = centres
        self._whole: tuple[LabelledImages, np.ndarray] | None = None  # what this is a subset of, and where

    @classmethod
    def read(
        cls,
        source: Source,
        indices: np.ndarray,
        targets: np.ndarray,
        *,
        size: Size,
        skipped: SkippedFiles,
        resize: bool = True,
        show: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
    ) -> LabelledImages:
        """The readable ones of some images of a source, in the order of `indices`.

        `targets`: of all images of the source. `skipped` collects the damaged ones; `show` shows the progress of an
        iterable of known length.

        Raises:
            DataError: none of them can be read.
        """
        chosen, kept, centres = source.subset(indices), [], []
        fits = source.channels * math.prod(height_width(size)) * len(indices) <= MEMORY_BYTES
        cut = functools.partial(centre_pixels, size=size, resize=resize)
        batches = image_batches(chosen, cut, batch_size=BATCH, skipped=skipped)
        for batch in show(batches, math.ceil(len(indices) / BATCH)):
            kept.append(batch.indices)
            if fits and len(batch.indices):
                centres.append(batch.pixels)
        good = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
        if not len(good):
            raise DataError(f"none of {len(indices)} images of {source.name} can be read: check its files")
        readable = chosen if len(good) == len(indices) else chosen.subset(good)
        return cls(readable, targets[indices[good]], size, np.concatenate(centres) if fits else None, resize=resize)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def steps(self) -> int:
        """Batches of `batches`."""
        return math.ceil(len(self) / BATCH)

    def subset(self, positions: np.ndarray) -> LabelledImages:
        """The images at these positions; shares what is in memory."""
        centres = None if self._centres is None else self._centres[positions]
        targets = self.targets.numpy()[positions]
        part = LabelledImages(self.source.subset(positions), targets, self.size, centres, resize=self.resize)
        part._whole = (self, positions)
        return part

    def first(self, count: int) -> LabelledImages:
        """The first `count` images, or all where there are fewer."""
        return self if count >= len(self) else self.subset(np.arange(count))

    def centres(self) -> Iterator[np.ndarray]:
        """The centres in order, (n, H, W, C) uint8 at a time."""
        if self._centres is None:
            yield from self.transformed(functools.partial(centre_pixels, size=self.size, resize=self.resize))
            return
        for start in range(0, len(self), BATCH):
            yield self._centres[start : start + BATCH]

    def batches(
        self, preprocess: Preprocessing, transform: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Iterator[Tensor]:
        """All images in order as a network takes them, (n, C, H, W) float32, channels-last: the centres, or
        what a transform makes of the images.
        """
        for pixels in self.centres() if transform is None else self.transformed(transform):
            yield preprocess.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    def transformed(self, transform: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
        """What a transform makes of all images in order, (n, H, W, C) uint8 at a time."""
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
        """Smallest side of a decode whose smallest random crop has as many pixels as the result's longer side."""
        return math.ceil(max(height_width(self.size)) / math.sqrt(SMALLEST_CROP))


def paper_test_crop(pixels: np.ndarray, *, size: Size) -> np.ndarray:
    """As small as covers 256/224 of `size`, bilinear with antialiasing, then the centre of `size` pixels."""

    def crop(image: Image.Image) -> Image.Image:
        height, width = (round(RESIZE * side) for side in height_width(size))
        scale = max(width / image.width, height / image.height)
        covering = max(width, int(image.width * scale)), max(height, int(image.height * scale))
        return cut_centre(image.resize(covering, Image.Resampling.BILINEAR), size)

    return by_pillow(pixels, crop)


def watch(items: Iterable[Any], total: int, *, what: str, quiet: bool) -> Any:
    """The items, with a bar that follows them; on a terminal it vanishes at its end, elsewhere it says a line every
    half minute.
    """
    interval = 0.5 if sys.stderr.isatty() else 30.0
    pace: dict[str, Any] = {"mininterval": interval, "maxinterval": 2 * interval}
    return tqdm(items, desc=what, total=total, disable=quiet, leave=False, dynamic_ncols=True, **pace)
