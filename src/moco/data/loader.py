"""From a source of images to the views of each step, on the device: two, or one where no more is wanted.

Images of one size in one array are cropped in batches on the device, where that is cheaper. All others are decoded once
by workers, the views are cropped from that decode in the same part, and the pixels stay uint8 until the device. The
photometric operations run in batches on a GPU; on a CPU the same workers do them, a part of the batch each, while the
current step runs. Memory holds a few batches, and the decoded images where they fit into the budget.

Which way is taken depends on the images, the configuration and the kind of device alone: the two round differently, and
equal seeds should give equal runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import torch
from torch import Tensor

from moco.data.ahead import Begun, ahead, default_workers
from moco.data.base import Source
from moco.data.cache import plan_cache
from moco.data.forked import Slots, in_processes
from moco.data.order import PHOTOMETRIC, EpochOrder
from moco.data.plans import StepPlan, StepPlanner, Views
from moco.data.skipped import SkippedFiles
from moco.data.source import Source
from moco.data.upload import Uploads
from moco.data.views import ViewRecipe, photometric_views
from moco.hardware import can_fork

# Longest side in pixels up to which a CPU crops an array in batches; above, one by one in uint8 takes half of the time
# or less (docs/data.md).
BATCHED_SIDE = 64
DEVICE_SHARE = 4  # an array goes to a GPU whole if it takes no more than this fraction of what is free: 1 / 4


class ViewLoader:
    """Views of each image of each step.

    Args:
        source: the images.
        order: which of them come in which step.
        recipe: crop and photometric operations.
        image_size: side of a view in pixels.
        device: where the views are wanted.
        workers: threads or processes that decode and crop; None means the number of cores, at most 16.
        rank, world_size: this process's share.
        skipped: collects damaged files. The place of a damaged image is taken by another one, drawn from the seed.
        cache_bytes: budget of this process for decoded images that stay in memory; all of them or none. 0 keeps none.
        views: 2, or 1 for the first view alone, which is the same as beside a second one.
        processes: let the workers be processes where that can be (`hardware.can_fork`, a source of ours); on a CPU a
            step's views are then overwritten when a later step's are asked for.
        fuse: on a GPU, compile exact colours, for runs that are long enough to win the minute back.
        show_progress: a bar on stderr while images are decoded ahead of the first step.

    Attributes:
        planner: draws each step.
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
        processes: bool = False,
        fuse: bool = False,
        show_progress: bool = False,
    ) -> None:
        self.source, self.order, self.device, self.skipped = source, order, device, skipped
        self._cache_bytes, self._show_progress, self._forks = cache_bytes, show_progress, processes and self._may_fork()
        self.planner = StepPlanner(
            source=source,
            order=order,
            recipe=_fused(recipe) if fuse and device.type == "cuda" else recipe,
            image_size=image_size,
            device=device,
            skipped=skipped,
            workers=workers or default_workers(),
            rank=rank,
            world_size=world_size,
            views=views,
            cache=None,
            array=source.uniform_array(),
        )
        self.planner.cache, self.storage = plan_cache(
            source, order.indices, budget=cache_bytes, min_side=self.planner.min_side, array=self.planner.array
        )
        self._on_device: Tensor | None = None
        self.indices = np.empty(0, dtype=np.int64)

    def batches(self, first_step: int) -> Iterator[Views]:
        """The views of step `first_step` and of each later one, without end; close the iterator to free the workers.

        Images of one size that fit into the budget and are to be cropped in batches are all decoded before the first
        step.
        """
        planner, cache = self.planner, self.planner.cache
        if cache is not None and cache.shape is not None and planner.array is None and self._in_batches(cache.shape):
            cache.fill(self.skipped, workers=planner.workers, show_progress=self._show_progress)
            planner.array = cache.array()
        whole = planner.array is not None and self._in_batches(planner.array.shape[1:3])
        if self.device.type == "cpu":
            return self._on_cpu(planner.resident if whole else planner.streaming, first_step)
        return self._resident(first_step) if whole else self._streaming(first_step)

    def _may_fork(self) -> bool:
        ours = isinstance(self.source, Source) and self.device.type in ("cpu", "cuda")
        return ours and can_fork(multiply=self.device.type == "cpu")  # crops are made without matrix products

    def _in_batches(self, shape: tuple[int, ...]) -> bool:
        return self.device.type != "cpu" or max(shape) <= BATCHED_SIDE

    def _on_cpu(self, plan: Callable[..., StepPlan], first_step: int) -> Iterator[Views]:
        if not self._forks:
            return self._in_threads(plan, first_step)
        return self._by_processes(plan, first_step, Slots.of_views(*self._slot_size))

    def _by_processes(self, plan: Callable[..., StepPlan], first_step: int, slots: Slots) -> Generator[Views]:
        """What each step's plan makes, in order, as it lies in the slots; `indices` says which images that were."""
        cpu, workers = self.device.type == "cpu", self.planner.workers
        made = in_processes(first_step, plan, slots, self.skipped, workers=workers, beside_encoder=cpu)
        with contextlib.closing(made) as steps:
            for self.indices, results in steps:
                yield results

    @property
    def _slot_size(self) -> tuple[int, int, int]:
        """Views, samples, and pixels of a side."""
        return self.planner.views, self.order.batch_size // self.planner.world_size, self.planner.image_size

    def _in_threads(self, plan: Callable[[int], StepPlan], first_step: int) -> Generator[Views]:
        """What each step's plan makes, in order; `indices` says which images that were."""

        def begin(step: int, pool: ThreadPoolExecutor) -> Begun[Views]:
            made = plan(step)

            def hand_over() -> Views:
                self.indices = made.indices
                return made.results

            return hand_over, [pool.submit(made.make, part) for part in made.parts]

        return ahead(first_step, begin, workers=self.planner.workers, spread=self.device.type == "cpu")

    def _resident(self, first_step: int) -> Iterator[Views]:
        """On a GPU, from the array."""
        self._on_device = self._whole_on_device() if self._on_device is None else self._on_device
        gathered = ahead(first_step, self._gather, workers=self.planner.workers)
        with contextlib.closing(gathered) as batches:
            for step, images in zip(itertools.count(first_step), batches, strict=False):
                yield self.planner.planned_views(images, step).complete()

    def _whole_on_device(self) -> Tensor | None:
        """All images on the GPU, if they are few beside its free memory and within the budget."""
        array = self.planner.array
        assert array is not None
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        if array.nbytes > min(self._cache_bytes, free // DEVICE_SHARE):
            return None
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    def _gather(self, step: int, pool: ThreadPoolExecutor) -> Begun[Tensor]:
        """The images of a step on the GPU, (N, H, W, 3) uint8, from the array."""
        rows, indices = self.planner.rows(step)
        copied: list[Tensor] = []

        def copy() -> None:
            array = cast(np.ndarray, self.planner.array)
            images = torch.from_numpy(np.ascontiguousarray(array[rows]))
            copied.append(images.pin_memory() if self.device.type == "cuda" else images)

        def hand_over() -> Tensor:
            self.indices = indices
            if self._on_device is not None:
                return self._on_device.index_select(0, torch.from_numpy(rows).to(self.device, non_blocking=True))
            return copied.pop().to(self.device, non_blocking=True)

        return hand_over, [] if self._on_device is not None else [pool.submit(copy)]

    def _streaming(self, first_step: int) -> Iterator[Views]:
        """On a GPU, from images one by one."""
        with contextlib.closing(self.crops(first_step)) as batches:
            for step, crops in zip(itertools.count(first_step), batches, strict=False):
                generator = self.planner.generator(PHOTOMETRIC, step)
                yield photometric_views(crops.permute(0, 1, 4, 2, 3), self.planner.recipe, generator)

    def crops(self, first_step: int) -> Generator[Tensor]:
        """The views' crops of each step without their colours, (V, N, size, size, 3) uint8, each image by itself.

        Where workers are processes, crops on a CPU are overwritten when a later step's are asked for.
        """
        memory, plan = None, self.planner.crops
        if self._forks:
            slots = Slots.of_crops(*self._slot_size)
            memory, made = slots.memory, self._by_processes(plan, first_step, slots)
        else:
            made = self._in_threads(plan, first_step)
        with contextlib.closing(made) as steps, Uploads(self.device, memory) as uploads:
            for (crops,) in steps:
                yield uploads.start(crops)
                uploads.finish()


def _fused(recipe: ViewRecipe) -> ViewRecipe:
    return dataclasses.replace(recipe, color="fused") if recipe.color == "exact" else recipe
