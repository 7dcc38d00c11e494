"""Images for evaluation and supervised training: read once while they fit into memory, cut to one size by threads.

N: images of the whole   n: images of a batch   S: side of a cut image
"""

from __future__ import annotations

import copy
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from PIL import Image

from moco.data.skipped import SkippedFiles
from moco.data.source import DamagedImage, Source
from moco.errors import DataError

Cut = Callable[[Image.Image], np.ndarray]  # one image to (S, S, 3) uint8
Watch = Callable[[Iterable[Any], int], Iterable[Any]]  # shows the progress of an iterable of known length
MEMORY_BYTES = 2**30  # of decoded pixels; what is beyond it is decoded again at each use
PREFETCH = 4  # batches cut ahead
CHUNK = 16  # images of one piece of work for a thread


def unwatched(items: Iterable[Any], total: int) -> Iterable[Any]:
    """The items, without a progress bar."""
    return items


class ReadableImages:
    """Those images of a source that can be read, by position.

    Files are decoded once at the start, which finds the damaged ones; pixels stay in memory up to `memory_bytes`.
    Arrays are not copied and not checked: their images cannot be damaged.

    Args:
        source: the images.
        indices: which of them, in the order wanted.
        min_side: no one needs more pixels than this on the shorter side (see `Source.image`).
        skipped: collects the damaged files.
        memory_bytes: most bytes of pixels kept.
        watch: shows the progress.

    Attributes:
        source: the images.
        indices: the readable ones, (N,) int64.
        sizes: height and width of each, (N, 2) int64.

    Raises:
        DataError: none can be read.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        *,
        min_side: int,
        skipped: SkippedFiles,
        memory_bytes: int = MEMORY_BYTES,
        watch: Watch = unwatched,
    ) -> None:
        self.source, self._min_side = source, min_side
        self._array = source.uniform_array()
        self._kept: dict[int, np.ndarray] = {}  # by index into the source
        if self._array is not None:
            self.indices = np.asarray(indices, dtype=np.int64)
            self.sizes = np.tile(np.array(self._array.shape[1:3], dtype=np.int64), (len(indices), 1))
            return
        sizes, room = np.zeros((len(indices), 2), dtype=np.int64), memory_bytes

        def look(index: int) -> np.ndarray | None:
            try:
                return np.asarray(source.image(int(index), min_side=min_side))
            except DamagedImage as error:
                skipped.add(source.item_name(int(index)), str(error))
                return None

        for position, pixels in enumerate(watch(_mapped(look, indices), len(indices))):
            if pixels is None:
                continue
            sizes[position] = pixels.shape[:2]
            if pixels.nbytes <= room:
                room -= pixels.nbytes
                self._kept[int(indices[position])] = pixels
        good = sizes[:, 0] > 0
        if not good.any():
            raise DataError(f"none of {len(indices)} images of {source.name} can be read: check its files")
        self.indices, self.sizes = np.asarray(indices, dtype=np.int64)[good], sizes[good]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, position: int) -> Image.Image:
        """One image, RGB."""
        index = int(self.indices[position])
        if self._array is not None:
            return Image.fromarray(np.ascontiguousarray(self._array[index]))
        if index in self._kept:
            return Image.fromarray(self._kept[index])
        return self.source.image(index, min_side=self._min_side)

    def subset(self, positions: np.ndarray) -> Self:
        """The images at `positions`; shares the pixels with this one."""
        part = copy.copy(self)
        part.indices, part.sizes = self.indices[positions], self.sizes[positions]
        return part

    def cut(self, jobs: Iterable[Sequence[tuple[int, Cut]]]) -> Iterator[np.ndarray]:
        """Batches (n, S, S, 3) uint8 of stated images, each cut in its own way; a job is a batch."""

        def work(chunk: Sequence[tuple[int, Cut]]) -> list[np.ndarray]:
            return [cut(self.image(position)) for position, cut in chunk]

        for parts in _ahead(work, (list(_chunks(job, CHUNK)) for job in jobs), PREFETCH):
            yield np.stack([pixels for part in parts for pixels in part])


def _mapped(function: Callable[[int], Any], items: Sequence[Any] | np.ndarray) -> Iterator[Any]:
    """The results in order; a bounded number of items is in work, so that Ctrl-C ends it soon."""
    for (result,) in _ahead(function, ([item] for item in items), 64):
        yield result


def _ahead(work: Callable[[Any], Any], jobs: Iterable[Sequence[Any]], ahead: int) -> Iterator[list[Any]]:
    """Results of each job's pieces in order; threads work on the next `ahead` jobs meanwhile."""
    pending: deque[list[Future[Any]]] = deque()
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="moco-read")
    try:
        for job in jobs:
            pending.append([pool.submit(work, piece) for piece in job])
            if len(pending) > ahead:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
