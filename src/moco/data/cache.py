"""Decoded images that stay in memory within a budget, so that only the first visit to an image decodes it.

Whether they stay is decided before the first visit from the images' sizes and the budget alone.
"""

from __future__ import annotations

import mmap
import threading

import numpy as np

from moco.data.base import Source
from moco.data.workers import start_method

GIB = 2**30
SAMPLE = 256  # images whose sizes are read before those of all: a set that cannot fit is not read through
DOUBT = 1.5  # times the budget that the sample must say before the sizes of all are left unread


class CachedSource(Source):
    """A source whose images in use are each kept when they are first decoded.

    The pixels lie in one run of memory that processes forked from this one share: each image has its own place, and two
    workers that decode the same image write the same bytes. Memory: C * H * W bytes an image, taken as images come in.

    Args:
        source: the images.
        indices: those in use, (n,); others are passed through and not kept.
        shapes: their heights and widths, (n, 2), from `source.shapes`.
        min_side: smallest side that is needed, as for `Source.image`.
    """

    def __init__(self, source: Source, indices: np.ndarray, shapes: np.ndarray, *, min_side: int | None) -> None:
        super().__init__(len(source), name=source.name, labels=source.labels, class_names=source.class_names)
        self.channels = source.channels
        self._source, self._min_side, self._shapes = source, min_side, np.asarray(shapes, dtype=np.int64)
        self._ends = np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(self.channels * self._shapes.prod(axis=1), out=self._ends[1:])
        self._slots = np.full(len(source), -1, dtype=np.int32)
        self._slots[indices] = np.arange(len(indices))
        self._pixels, self._kept = _shared(self.nbytes), _shared(len(indices))
        self._fence = threading.Lock()  # taking it, a core sees all that another one wrote before it did

    @property
    def nbytes(self) -> int:
        """Memory of all pixels."""
        return int(self._ends[-1])

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """(H, W, C) uint8, decoded if this is the first time; `min_side` is that of the cache."""
        place = self._place(index)
        slot = int(self._slots[place])
        if slot < 0:
            return self._source.pixels(place, min_side=self._min_side)
        kept = self._pixels[self._ends[slot] : self._ends[slot + 1]]
        with self._fence:
            if self._kept[slot]:
                return kept.reshape(*self._shapes[slot], self.channels)
        pixels = self._source.pixels(place, min_side=self._min_side)
        if pixels.shape[:2] == tuple(self._shapes[slot]):  # else the file's first bytes said something wrong
            kept.reshape(pixels.shape)[...] = pixels
            with self._fence:
                self._kept[slot] = 1
        return pixels

    def item_name(self, index: int) -> str:
        """As the source says."""
        return self._source.item_name(self._place(index))


def keep_decoded(
    source: Source, indices: np.ndarray, *, budget: int, min_side: int | None = None
) -> tuple[Source, str]:
    """The source with these images kept once decoded, if all of them fit into the budget, else the source as it is; and
    one line that says which.

    Args:
        source: the images.
        indices: those in use.
        budget: bytes for decoded images; 0 keeps none.
        min_side: as for `Source.image`.
    """
    if source.decoded:
        return source, f"{source.name} holds decoded images: nothing is left to decode"
    if budget <= 0:
        return source, "decoded images are not kept (--cache-gib 0): they are decoded at each visit"
    if start_method() != "fork":
        return source, "decoded images are not kept: worker processes that are not forked cannot share them"
    sample = indices[np.unique(np.linspace(0, len(indices) - 1, SAMPLE).astype(np.int64))]
    shapes = source.shapes(sample, min_side=min_side)
    if shapes is None:
        return source, f"{source.name} tells sizes only by decoding: its images are decoded at each visit"
    needed = source.channels * shapes.prod(axis=1, dtype=np.int64).mean() * len(indices)
    if needed <= DOUBT * budget:
        shapes = source.shapes(indices, min_side=min_side)
        assert shapes is not None
        needed = source.channels * shapes.prod(axis=1, dtype=np.int64).sum()
    if needed > budget:
        return source, (
            f"decoded images would take {_size(needed)}, more than the {_size(budget)} of --cache-gib: they are "
            "decoded at each visit"
        )
    kept = CachedSource(source, indices, shapes, min_side=min_side)
    return kept, f"decoded images stay in memory: {_size(kept.nbytes)} of {_size(budget)}"


def _shared(size: int) -> np.ndarray:
    """So many zero bytes in memory without a name, taken as they are written; they end with the last process."""
    return np.frombuffer(mmap.mmap(-1, max(1, size)), dtype=np.uint8, count=size)


def _size(count: float) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
