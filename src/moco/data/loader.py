"""From images to the views of each step, on the device, by PyTorch's DataLoader."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from moco.data.base import Source
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.view_dataset import MakeViews, ViewBatch, ViewDataset
from moco.data.workers import default_workers, end_workers, start_method, start_workers, worker_deaths, worker_init
from moco.errors import DataError

PREFETCH = 2  # batches that each worker makes ahead
SHARED_MEMORY = "/dev/shm"
SPARE_MEMORY = 2**27  # bytes; below, batches come through pipes: containers often have 64 MiB of shared memory


class ViewLoader:
    """Views of each image of each step.

    Args:
        source: the images.
        order: which of them come in which step.
        make: how an image becomes views.
        device: where the views are wanted.
        skipped: collects damaged files; the place of a damaged image is taken by another one, drawn from the seed.
        workers: processes that make views; 0 for none, None means the number of cores, at most 16.
    """

    def __init__(
        self,
        source: Source,
        order: EpochOrder,
        make: MakeViews,
        *,
        device: torch.device,
        skipped: SkippedFiles,
        workers: int | None = None,
    ) -> None:
        self._order, self._make, self._device, self._skipped = order, make, device, skipped
        self._workers = default_workers() if workers is None else workers
        self._dataset = ViewDataset(source, order, make)

    def batches(self, first_step: int) -> Generator[tuple[tuple[Tensor, ...], Tensor]]:
        """Views and source indices of step `first_step` and each later one, without end; close it to end the workers.

        Raises:
            DataError: too many images cannot be read, or a transform returns something else than two views.
            RunError: a worker was killed.
        """
        self._order.first_step = first_step
        made = start_workers(self._loader())
        try:
            for samples in self._order:
                batch = self._next(made)
                indices = batch.indices.to(self._device, non_blocking=True)
                views = tuple(view.to(self._device, non_blocking=True) for view in batch.views)
                yield self._make.on_device(views, samples), indices
        finally:
            if self._workers:
                end_workers(made)

    def _loader(self) -> DataLoader[ViewBatch]:
        # A generator of its own: seeds of workers, which nothing here uses, would be drawn from the global one.
        options: dict[str, Any] = {"pin_memory": self._device.type == "cuda", "generator": torch.Generator()}
        collate: Any = _as_it_is
        if self._workers:
            options |= {"prefetch_factor": PREFETCH, "multiprocessing_context": start_method()}
            collate = _as_it_is if _has_shared_memory() else _as_arrays
        return DataLoader(
            self._dataset,
            batch_sampler=self._order,
            num_workers=self._workers,
            collate_fn=collate,
            worker_init_fn=worker_init,
            **options,
        )

    def _next(self, made: Iterator[ViewBatch]) -> ViewBatch:
        with worker_deaths("try fewer --workers, or --cache-gib 0"):
            batch = _as_tensors(next(made))
        for item, reason in batch.damaged:
            self._skipped.add(item, reason)
        if batch.error is not None:
            raise DataError(batch.error)
        return batch


def _has_shared_memory() -> bool:
    try:
        return shutil.disk_usage(SHARED_MEMORY).free >= SPARE_MEMORY
    except OSError:  # no such place on this system
        return True


def _as_it_is(batch: ViewBatch) -> ViewBatch:
    return batch


def _as_arrays(batch: ViewBatch) -> Any:
    arrays: Any = tuple(view.numpy() for view in batch.views)
    return batch._replace(views=arrays)


def _as_tensors(batch: ViewBatch) -> ViewBatch:
    return batch._replace(views=tuple(map(torch.as_tensor, batch.views)))
