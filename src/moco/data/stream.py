"""All images of a source once, in order, decoded ahead of their use; memory holds a few batches, never the folder."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from moco.data.ahead import default_workers
from moco.data.preprocess import centre_pixels
from moco.data.skipped import SkippedFiles
from moco.data.source import DamagedImage, Source

AHEAD = 3  # batches decoded ahead: enough to cover a slow disk, little memory
RUN = 8  # images decoded by one task


@dataclasses.dataclass(frozen=True)
class FixedBatch:
    """The readable ones of the images before `stop` that no earlier batch held.

    Attributes:
        stop: index after the last image looked at.
        indices: (n,) int64, of those that could be read.
        pixels: (n, size, size, 3) uint8, their centre squares.
    """

    stop: int
    indices: np.ndarray
    pixels: np.ndarray


def fixed_batches(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    skipped: SkippedFiles,
    first: int = 0,
    workers: int | None = None,
) -> Iterator[FixedBatch]:
    """Batches of centre squares from image `first` on; close the iterator to free its threads.

    Args:
        source: the images.
        image_size: side of the result in pixels.
        batch_size: images looked at for one batch; damaged ones are left out and noted in `skipped`.
        skipped: collects damaged files.
        first: index of the first image.
        workers: threads that decode; None means the number of cores, at most 16.
    """
    array = source.uniform_array()
    if array is not None and array.shape[1:3] == (image_size, image_size):
        for start in range(first, len(source), batch_size):
            stop = min(start + batch_size, len(source))
            yield FixedBatch(stop, np.arange(start, stop), np.array(array[start:stop], order="C"))
        return
    starts = iter(range(first, len(source), batch_size))
    waiting: deque[_Pending] = deque()
    pool = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="moco-decode")
    try:
        while True:
            while len(waiting) <= AHEAD and (begin := next(starts, None)) is not None:
                indices = range(begin, min(begin + batch_size, len(source)))
                waiting.append(_Pending(pool, source, indices, image_size, skipped))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Pending:
    """A batch that threads are filling."""

    def __init__(
        self, pool: ThreadPoolExecutor, source: Source, indices: range, size: int, skipped: SkippedFiles
    ) -> None:
        self._indices = indices
        self._pixels = np.empty((len(indices), size, size, 3), dtype=np.uint8)
        self._good = np.zeros(len(indices), dtype=bool)
        self._source, self._size, self._skipped = source, size, skipped
        self._tasks: list[Future[None]] = [
            pool.submit(self._fill, places) for places in _runs(range(len(indices)), RUN)
        ]

    def result(self) -> FixedBatch:
        for task in self._tasks:
            task.result()
        indices = np.asarray(self._indices, dtype=np.int64)
        if self._good.all():
            return FixedBatch(self._indices.stop, indices, self._pixels)
        return FixedBatch(self._indices.stop, indices[self._good], self._pixels[self._good])

    def _fill(self, places: range) -> None:
        for place in places:
            index = self._indices[place]
            try:
                pixels = self._source.pixels(index, min_side=self._size)
            except DamagedImage as error:
                self._skipped.add(self._source.item_name(index), error.reason)
                continue
            self._pixels[place] = centre_pixels(pixels, self._size)
            self._good[place] = True


def _runs(places: range, length: int) -> list[range]:
    return [places[start : start + length] for start in range(0, len(places), length)]
