"""From a source of images to the two views of each step, on the device.

Images of one size in one array are cropped in batches on the device, where that is cheaper. All others are decoded once
by threads (the decoders and resamplers release the interpreter lock), both views are cropped from that decode in the
same task, and the pixels stay uint8 until the device, where the photometric operations run in batches. Memory holds a
few batches, and the decoded images where they fit into the budget.

Which way is taken depends on the images, the configuration and the kind of device alone: the two round differently, and
equal seeds should give equal runs.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from moco.data.cache import DecodedCache, plan_cache
from moco.data.cut import BoxDraws, resized_crop_pixels
from moco.data.order import PHOTOMETRIC, SHUFFLE, VIEWS, EpochOrder, keyed_generator
from moco.data.skipped import SkippedFiles
from moco.data.source import DamagedImage, Source
from moco.data.views import ViewRecipe, photometric_views, two_views
from moco.errors import DataError

Views = tuple[Tensor, Tensor]
Begun = tuple[Callable[[], Tensor], list["Future[None]"]]  # what gives the images, once these have ended
PREFETCH = 3  # batches decoded ahead: enough to cover a slow disk, little memory
ATTEMPTS = 100  # damaged images replaced in a row before giving up
# Longest side in pixels up to which a CPU crops an array in batches; above, one by one in uint8 takes half of the time
# or less (docs/data.md).
BATCHED_SIDE = 64
DEVICE_SHARE = 4  # an array goes to a GPU whole if it takes no more than this fraction of what is free: 1 / 4
_CHUNK = 8  # images in one task of a worker


class ViewLoader:
    """Two views of each image of each step.

    Args:
        source: the images.
        order: which of them come in which step.
        recipe: crop and photometric operations.
        image_size: side of a view in pixels.
        device: where the views are wanted.
        workers: threads that decode and crop files; None means the number of cores, at most 16.
        rank, world_size: this process's share.
        skipped: collects damaged files. The place of a damaged image is taken by another one, drawn from the seed.
        cache_bytes: budget of this process for decoded images that stay in memory; all of them or none. 0 keeps none.
        show_progress: a bar on stderr while images are decoded ahead of the first step.

    Attributes:
        storage: one line on where the pixels are.
        indices: source indices of the images of the newest batch, those of replacements where images are damaged.
    """

    def __init__(
        self,
        source: Source,
        order: EpochOrder,
        recipe: ViewRecipe,
        *,
        image_size: int,
        device: torch.device,
        skipped: SkippedFiles,
        workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        cache_bytes: int = 0,
        show_progress: bool = False,
    ) -> None:
        self.source, self.order, self.recipe = source, order, recipe
        self.image_size, self.device, self.skipped = image_size, device, skipped
        self.workers = workers or min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.rank, self.world_size = rank, world_size
        self.cache_bytes, self.show_progress = cache_bytes, show_progress
        # The smallest crop of an image decoded at this size still has as many pixels as the view.
        self.min_side = math.ceil(image_size / recipe.crop_scale[0] ** 0.5)
        self.array = source.uniform_array()
        self.cache: DecodedCache | None = None
        self.storage = f"{source.name} holds decoded images: nothing is left to decode"
        if self.array is None:
            self.cache, self.storage = plan_cache(source, order.indices, budget=cache_bytes, min_side=self.min_side)
        self._on_device: Tensor | None = None
        self.indices = np.empty(0, dtype=np.int64)
        self._ahead_indices: dict[int, np.ndarray] = {}  # of the steps that are worked on, by step

    def batches(self, first_step: int) -> Iterator[Views]:
        """The views of step `first_step` and of each later one, without end; close the iterator to free threads.

        Images of one size that fit into the budget and are to be cropped in batches are all decoded before the first
        step.
        """
        cache = self.cache
        if cache is not None and cache.shape is not None and self.array is None and self._in_batches(cache.shape):
            cache.fill(self.skipped, workers=self.workers, show_progress=self.show_progress)
            self.array = cache.array()
        if self.array is not None and self._in_batches(self.array.shape[1:3]):
            return self._resident(first_step)
        return self._streaming(first_step)

    def _in_batches(self, shape: tuple[int, ...]) -> bool:
        return self.device.type != "cpu" or max(shape) <= BATCHED_SIDE

    def _generator(self, purpose: int, step: int) -> torch.Generator:
        return keyed_generator(self.order.seed, purpose, step, self.rank)

    def _indices(self, step: int) -> np.ndarray:
        indices = self.order.batch(step, rank=self.rank, world_size=self.world_size)
        self._ahead_indices[step] = indices  # a damaged image's place is overwritten by whoever replaces it
        return indices

    def _ahead(self, first_step: int, begin: Callable[[int, ThreadPoolExecutor], Begun]) -> Generator[Tensor]:
        """The images of each step on the device; those of the next steps are worked on meanwhile."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="moco-decode")
        begun: deque[Begun] = deque()
        try:
            for step in itertools.count(first_step):
                begun.append(begin(step, pool))
                if len(begun) > PREFETCH:
                    images, tasks = begun.popleft()
                    for task in tasks:
                        task.result()
                    self.indices = self._ahead_indices.pop(step - PREFETCH)
                    yield images().to(self.device, non_blocking=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _resident(self, first_step: int) -> Iterator[Views]:
        self._on_device = self._whole_on_device() if self._on_device is None else self._on_device
        with contextlib.closing(self._ahead(first_step, self._gather)) as ahead:
            for step, images in zip(itertools.count(first_step), ahead, strict=False):
                generator = self._generator(VIEWS, step)
                yield two_views(images.permute(0, 3, 1, 2), self.recipe, self.image_size, generator)

    def _whole_on_device(self) -> Tensor | None:
        """All images on the GPU, if they are few beside its free memory and within the budget."""
        assert self.array is not None
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        if self.array.nbytes > min(self.cache_bytes, free // DEVICE_SHARE):
            return None
        return torch.from_numpy(np.ascontiguousarray(self.array)).to(self.device)

    def _gather(self, step: int, pool: ThreadPoolExecutor) -> Begun:
        """The images of a step, (N, H, W, 3) uint8, from the array."""
        rows = self._rows(step)
        if self._on_device is not None:
            chosen, whole = torch.from_numpy(rows).to(self.device, non_blocking=True), self._on_device
            return lambda: whole.index_select(0, chosen), []
        copied: list[Tensor] = []

        def copy() -> None:
            assert self.array is not None
            images = torch.from_numpy(np.ascontiguousarray(self.array[rows]))
            copied.append(images.pin_memory() if self.device.type == "cuda" else images)

        return copied.pop, [pool.submit(copy)]

    def _rows(self, step: int) -> np.ndarray:
        """Where in the array the images of a step lie; damaged ones are replaced."""
        indices = self._indices(step)
        if self.cache is None:
            return indices
        cache, kept = self.cache, self.cache.is_kept(indices)
        for position in np.flatnonzero(~kept):
            candidates = self._candidates(int(indices[position]), step)
            indices[position] = next(number for number in candidates if cache.is_kept(np.array([number]))[0])
        return cache.rows(indices).astype(np.int64)

    def _streaming(self, first_step: int) -> Iterator[Views]:
        with contextlib.closing(self.crops(first_step)) as ahead:
            for step, crops in zip(itertools.count(first_step), ahead, strict=False):
                yield photometric_views(crops.permute(0, 1, 4, 2, 3), self.recipe, self._generator(PHOTOMETRIC, step))

    def crops(self, first_step: int) -> Generator[Tensor]:
        """Both views' crops of each step without their colours, (2, N, size, size, 3) uint8, each image by itself."""
        return self._ahead(first_step, self._crop)

    def _crop(self, step: int, pool: ThreadPoolExecutor) -> Begun:
        """The crops of one step."""
        indices = self._indices(step)
        count = len(indices)
        generator = self._generator(VIEWS, step)
        boxes = BoxDraws(2 * count, scale=self.recipe.crop_scale, generator=generator)
        flips = (torch.rand(2 * count, generator=generator) < self.recipe.flip_probability).tolist()
        shape = (2, count, self.image_size, self.image_size, 3)
        crops = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        out = crops.numpy()
        chunk = max(1, min(_CHUNK, count // self.workers))

        def work(first: int) -> None:
            for position in range(first, min(first + chunk, count)):
                indices[position], pixels = self._load(int(indices[position]), step)
                for view, number in enumerate((position, position + count)):
                    box = boxes.box(number, *pixels.shape[:2])
                    resized_crop_pixels(pixels, box, flips[number], out[view, position])

        return lambda: crops, [pool.submit(work, first) for first in range(0, count, chunk)]

    def _load(self, index: int, step: int) -> tuple[int, np.ndarray]:
        """The image's index and pixels, or those of the next readable one."""
        for candidate in self._candidates(index, step):
            try:
                return candidate, self._pixels(candidate)
            except DamagedImage as error:
                self.skipped.add(self.source.item_name(candidate), str(error))
        raise AssertionError("_candidates never ends without an error")

    def _pixels(self, index: int) -> np.ndarray:
        if self.cache is not None:
            return self.cache.pixels(index)
        if self.array is not None:
            return np.asarray(self.array[index])
        read = getattr(self.source, "pixels", None)
        if read is not None:
            return np.asarray(read(index, min_side=self.min_side))
        return np.asarray(self.source.image(index, min_side=self.min_side))

    def _candidates(self, index: int, step: int) -> Iterator[int]:
        """The image, then others in a sequence that depends on nothing but seed, step and index.

        Raises:
            DataError: ATTEMPTS of them were taken without success.
        """
        yield index
        candidate = index
        replacements = keyed_generator(self.order.seed, SHUFFLE, step, index)
        for _ in range(ATTEMPTS - 1):
            candidate = int(
                self.order.indices[int(torch.randint(len(self.order.indices), (1,), generator=replacements))]
            )
            yield candidate
        raise DataError(
            f"{ATTEMPTS} images in a row cannot be read, the last is {self.source.item_name(candidate)}: "
            "check the folder"
        )
