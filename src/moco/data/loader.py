"""From a source of images to the views of each step, on the device: two, or one where no more is wanted.

Images of one size in one array are cropped in batches on the device, where that is cheaper. All others are decoded once
by threads (the decoders and resamplers release the interpreter lock), the views are cropped from that decode in the
same task, and the pixels stay uint8 until the device. The photometric operations run in batches on a GPU; on a CPU the
same threads do them, a part of the batch each, while the current step runs. Memory holds a few batches, and the
decoded images where they fit into the budget.

Which way is taken depends on the images, the configuration and the kind of device alone: the two round differently, and
equal seeds should give equal runs.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from moco.data.ahead import Begun, Result, ahead, default_workers
from moco.data.cache import DecodedCache, plan_cache
from moco.data.cut import BoxDraws, resized_crop_pixels
from moco.data.order import PHOTOMETRIC, SHUFFLE, VIEWS, EpochOrder, keyed_generator
from moco.data.skipped import SkippedFiles
from moco.data.source import DamagedImage, Source
from moco.data.views import (
    BLOCK_PIXELS,
    PlannedViews,
    ViewRecipe,
    photometric_views,
    plan_photometric_views,
    plan_views,
)
from moco.errors import DataError

Views = tuple[Tensor, ...]
ATTEMPTS = 100  # damaged images replaced in a row before giving up
# Longest side in pixels up to which a CPU crops an array in batches; above, one by one in uint8 takes half of the time
# or less (docs/data.md).
BATCHED_SIDE = 64
DEVICE_SHARE = 4  # an array goes to a GPU whole if it takes no more than this fraction of what is free: 1 / 4
_CHUNK, _MOST = 8, 16  # images in one task of a worker; the more, the smaller they are


class ViewLoader:
    """Views of each image of each step.

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
        views: 2, or 1 for the first view alone, which is the same as beside a second one.
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
        views: int = 2,
        show_progress: bool = False,
    ) -> None:
        self.source, self.order, self.recipe = source, order, recipe
        self.image_size, self.views, self.device, self.skipped = image_size, views, device, skipped
        self.workers = workers or default_workers()
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

    def _ahead(self, first_step: int, begin: Callable[[int, ThreadPoolExecutor], Begun[Result]]) -> Generator[Result]:
        """What each step's tasks make, in order; `indices` says which images that were."""

        def noted(step: int, pool: ThreadPoolExecutor) -> Begun[Result]:
            result, tasks = begin(step, pool)

            def hand_over() -> Result:
                self.indices = self._ahead_indices.pop(step)
                return result()

            return hand_over, tasks

        return ahead(first_step, noted, workers=self.workers, spread=self.device.type == "cpu")

    def _resident(self, first_step: int) -> Iterator[Views]:
        if self.device.type == "cpu":
            yield from self._ahead(first_step, self._plan_resident)
            return
        self._on_device = self._whole_on_device() if self._on_device is None else self._on_device
        with contextlib.closing(self._ahead(first_step, self._gather)) as batches:
            for step, images in zip(itertools.count(first_step), batches, strict=False):
                yield self._plan_views(images, step).complete()

    def _plan_resident(self, step: int, pool: ThreadPoolExecutor) -> Begun[Views]:
        """The views of a step from the array, part by part."""
        assert self.array is not None
        array, rows = self.array, self._rows(step)
        images = torch.empty((len(rows), *array.shape[1:]), dtype=torch.uint8)
        plan = self._plan_views(images, step)

        def work(place: slice) -> None:
            images[place] = torch.from_numpy(np.ascontiguousarray(array[rows[place]]))
            plan.make(place)

        return (lambda: plan.views), [pool.submit(work, place) for place in plan.blocks]

    def _plan_views(self, images_NHWC: Tensor, step: int) -> PlannedViews:
        images, generator = images_NHWC.permute(0, 3, 1, 2), self._generator(VIEWS, step)
        return plan_views(images, self.recipe, self.image_size, generator, views=self.views)

    def _whole_on_device(self) -> Tensor | None:
        """All images on the GPU, if they are few beside its free memory and within the budget."""
        assert self.array is not None
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        if self.array.nbytes > min(self.cache_bytes, free // DEVICE_SHARE):
            return None
        return torch.from_numpy(np.ascontiguousarray(self.array)).to(self.device)

    def _gather(self, step: int, pool: ThreadPoolExecutor) -> Begun[Tensor]:
        """The images of a step on the GPU, (N, H, W, 3) uint8, from the array."""
        rows = self._rows(step)
        if self._on_device is not None:
            chosen, whole = torch.from_numpy(rows).to(self.device, non_blocking=True), self._on_device
            return lambda: whole.index_select(0, chosen), []
        copied: list[Tensor] = []

        def copy() -> None:
            assert self.array is not None
            images = torch.from_numpy(np.ascontiguousarray(self.array[rows]))
            copied.append(images.pin_memory() if self.device.type == "cuda" else images)

        return (lambda: copied.pop().to(self.device, non_blocking=True)), [pool.submit(copy)]

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
        if self.device.type == "cpu":
            yield from self._ahead(first_step, self._plan_streaming)
            return
        with contextlib.closing(self.crops(first_step)) as batches:
            for step, crops in zip(itertools.count(first_step), batches, strict=False):
                yield photometric_views(crops.permute(0, 1, 4, 2, 3), self.recipe, self._generator(PHOTOMETRIC, step))

    def _plan_streaming(self, step: int, pool: ThreadPoolExecutor) -> Begun[Views]:
        """The views of a step from images one by one, a few of them in a task."""
        crops, crop = self._plan_crops(step)
        plan = plan_photometric_views(crops.permute(0, 1, 4, 2, 3), self.recipe, self._generator(PHOTOMETRIC, step))

        def work(place: slice) -> None:
            crop(place)
            plan.make(place)

        return (lambda: plan.views), [pool.submit(work, place) for place in self._parts(crops.shape[1])]

    def crops(self, first_step: int) -> Generator[Tensor]:
        """The views' crops of each step without their colours, (V, N, size, size, 3) uint8, each image by itself."""

        def begin(step: int, pool: ThreadPoolExecutor) -> Begun[Tensor]:
            crops, crop = self._plan_crops(step)
            tasks = [pool.submit(crop, place) for place in self._parts(crops.shape[1])]
            return (lambda: crops.to(self.device, non_blocking=True)), tasks

        return self._ahead(first_step, begin)

    def _parts(self, count: int) -> list[slice]:
        """Images of one task. On a CPU they do not depend on the number of workers, nor do the last bits of a view."""
        if self.device.type == "cpu":
            size = min(_MOST, max(_CHUNK, BLOCK_PIXELS // self.image_size**2))
        else:
            size = max(1, min(_CHUNK, count // self.workers))
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

    def _plan_crops(self, step: int) -> tuple[Tensor, Callable[[slice], None]]:
        """Memory for the crops of a step, and what fills a part of it."""
        indices = self._indices(step)
        count = len(indices)
        generator = self._generator(VIEWS, step)
        boxes = BoxDraws(2 * count, scale=self.recipe.crop_scale, generator=generator)
        flips = (torch.rand(2 * count, generator=generator) < self.recipe.flip_probability).tolist()
        shape = (self.views, count, self.image_size, self.image_size, 3)
        crops = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        out = crops.numpy()

        def crop(place: slice) -> None:
            for position in range(place.start, place.stop):
                indices[position], pixels = self._load(int(indices[position]), step)
                for view in range(self.views):
                    number = position + view * count
                    box = boxes.box(number, *pixels.shape[:2])
                    resized_crop_pixels(pixels, box, flips[number], out[view, position])

        return crops, crop

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
