"""Decoded images that stay in memory, so that only the first visit to an image decodes it.

Whether they stay is decided before the first step from the images' sizes and the budget alone, so that equal seeds
give equal runs on every machine. N: images in use   H, W: their sides in pixels
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from moco.data.base import BaseSource
from moco.data.decode import DamagedImage
from moco.data.shared import shared_zeros
from moco.data.skipped import SkippedFiles
from moco.data.source import Source

GIB = 2**30
SAMPLE = 256  # images whose sizes are read before those of all: a set that cannot fit is not read through
DOUBT = 1.5  # times the budget that the sample must say before the sizes of all are left unread
_CHUNK = 64  # images decoded in one task


class DecodedCache:
    """The pixels of some images of a source in one run of memory, each kept when it is first decoded.

    Threads and forked processes, which share the memory, may ask for images at the same time: each image has its own
    place, and two that decode the same image write the same bytes. Memory: 3 * H * W bytes an image, taken as images
    come in, and 21 bytes an image.

    Args:
        source: the images.
        indices: those in use, (N,); others are passed through and not kept.
        shapes: their heights and widths, (N, 2), from `source.shapes`.
        min_side: smallest side that is needed, as for `Source.image`.
    """

    def __init__(self, source: BaseSource, indices: np.ndarray, shapes: np.ndarray, *, min_side: int | None) -> None:
        self._source, self._indices, self._min_side = source, indices, min_side
        readable = shapes[shapes[:, 0] > 0]
        self._one_shape = len(readable) > 0 and bool((readable == readable[0]).all())
        if self._one_shape:  # an unreadable one gets a place too, so that the whole is one array
            shapes = np.broadcast_to(readable[0], shapes.shape)
        self._shapes = np.array(shapes, dtype=np.int32)
        self._ends = np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(3 * self._shapes.prod(axis=1, dtype=np.int64), out=self._ends[1:])
        self._slots = np.full(len(source), -1, dtype=np.int32)
        self._slots[indices] = np.arange(len(indices))
        self._pixels = shared_zeros((int(self._ends[-1]),), np.uint8)
        self._kept = shared_zeros((len(indices),), np.bool_)
        self._fence = threading.Lock()  # taking it, a core sees all that another one wrote before it did

    @property
    def nbytes(self) -> int:
        """Memory of all pixels."""
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width where all images that can be read have one size, else None."""
        return (int(self._shapes[0, 0]), int(self._shapes[0, 1])) if self._one_shape else None

    def pixels(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, decoded if this is the first time.

        Raises:
            DamagedImage: the image cannot be read.
        """
        slot = int(self._slots[index])
        if slot < 0:
            return self._source.pixels(index, min_side=self._min_side)
        place = self._pixels[self._ends[slot] : self._ends[slot + 1]]
        if self._kept[slot]:
            with self._fence:
                return place.reshape(*self._shapes[slot], 3)
        pixels = self._source.pixels(index, min_side=self._min_side)
        if pixels.shape[:2] != tuple(self._shapes[slot]):  # its first bytes said something else
            self._one_shape = False
            return pixels
        place.reshape(pixels.shape)[...] = pixels
        with self._fence:
            self._kept[slot] = True
        return pixels

    def fill(self, skipped: SkippedFiles, *, workers: int, show_progress: bool = False) -> None:
        """Decode all that is not there yet; damaged images are noted in `skipped`."""

        def load(start: int) -> int:
            part = self._indices[start : start + _CHUNK]
            for index in part[~self._kept[start : start + _CHUNK]].tolist():
                try:
                    self.pixels(index)
                except DamagedImage as error:
                    skipped.add(self._source.item_name(index), str(error))
            return len(part)

        bar = tqdm(total=len(self._indices), unit="images", desc="decoding", leave=False, disable=not show_progress)
        with bar, ThreadPoolExecutor(workers, thread_name_prefix="moco-decode") as pool:
            try:
                for count in pool.map(load, range(0, len(self._indices), _CHUNK)):
                    bar.update(count)
            except BaseException:  # Ctrl-C among them
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def array(self) -> np.ndarray | None:
        """(N, H, W, 3) uint8 where all images have one size, else None; to be asked after `fill`."""
        return self._pixels.reshape(len(self._indices), *self._shapes[0], 3) if self._one_shape else None

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Where in `array` these images lie."""
        places: np.ndarray = self._slots[indices]
        return places

    def is_kept(self, indices: np.ndarray) -> np.ndarray:
        """Which of these images are there; after `fill`, all but the damaged ones."""
        kept: np.ndarray = self._kept[self._slots[indices]]
        return kept


def plan_cache(
    source: Source,
    indices: np.ndarray,
    *,
    budget: int,
    min_side: int | None = None,
    array: np.ndarray | None = None,
) -> tuple[DecodedCache | None, str]:
    """A cache for these images if all of them fit into the budget, and one line that says what becomes of them.

    Args:
        source: the images.
        indices: those in use.
        budget: bytes for decoded images; 0 keeps none.
        min_side: as for `Source.image`.
        array: all images, where they lie in one already.
    """
    if array is not None or getattr(source, "decoded", False):
        return None, f"{source.name} holds decoded images: nothing is left to decode"
    if budget <= 0:
        return None, "decoded images are not kept (--cache-gib 0): they are decoded at each visit"
    sample = indices[np.unique(np.linspace(0, len(indices) - 1, SAMPLE).astype(np.int64))]
    shapes = source.shapes(sample, min_side=min_side) if isinstance(source, BaseSource) else None
    if not isinstance(source, BaseSource) or shapes is None:
        return None, f"{source.name} tells sizes only by decoding: its images are decoded at each visit"
    estimate = 3 * shapes.prod(axis=1, dtype=np.int64).mean() * len(indices)
    if estimate > DOUBT * budget:
        return None, _too_large(f"about {_size(estimate)}", budget)
    shapes = source.shapes(indices, min_side=min_side)
    assert shapes is not None
    total = 3 * int(shapes.prod(axis=1, dtype=np.int64).sum())
    if total > budget:
        return None, _too_large(_size(total), budget)
    cache = DecodedCache(source, indices, shapes, min_side=min_side)
    return cache, f"decoded images stay in memory: {_size(cache.nbytes)} of {_size(budget)}"


def _too_large(needed: str, budget: int) -> str:
    return (
        f"decoded images would take {needed}, more than the {_size(budget)} of --cache-gib: "
        "they are decoded at each visit"
    )


def _size(count: float) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
