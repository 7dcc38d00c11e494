"""From images to the views of each step, on the device, by PyTorch's DataLoader.

N: samples of this rank's share of a step   V: views of an image, 1 or 2   S: side of a view in pixels
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.data import shared_memory
from moco.data.base import Source
from moco.data.decode import DamagedImage
from moco.data.order import SHUFFLE, EpochOrder, Sample, keyed_generator
from moco.data.recipe_views import RecipeViews
from moco.data.shared_memory import shared
from moco.data.skipped import SkippedFiles
from moco.data.user_transform import TransformViews
from moco.data.workers import default_workers, end_workers, make_loader, start_workers, worker_deaths
from moco.errors import DataError

ATTEMPTS = 100  # damaged images replaced in a row before giving up
PREFETCH = 2  # batches that each worker makes ahead

MakeViews = RecipeViews | TransformViews  # what becomes of the images, in the worker and then on the device
Batches = Callable[[int], Generator[tuple[tuple[Tensor, ...], Tensor]]]
Damaged = list[tuple[str, str]]  # names and reasons


class ViewBatch(NamedTuple):
    """One rank's share of a step.

    Attributes:
        views: V tensors of N samples.
        indices: source indices of the images, (N,) int64, those of replacements where images are damaged.
        damaged: the damaged images met.
        error: why there is no batch; None where there is one.
        cause: the traceback of what the user's transform raised, if that is why.
    """

    views: tuple[Tensor, ...]
    indices: Tensor
    damaged: Damaged
    error: str | None = None
    cause: str = ""


class ViewDataset(Dataset[ViewBatch]):
    """A share of a step at a time, for a DataLoader whose batch sampler is an `EpochOrder`.

    Args:
        source: the images.
        order: gives the images that may replace a damaged one.
        make: from images to views.
    """

    def __init__(self, source: Source, order: EpochOrder, make: MakeViews) -> None:
        self._source, self._indices, self._seed, self._make = source, order.indices, order.seed, make

    def __getitems__(self, samples: list[Sample]) -> ViewBatch:
        indices = torch.zeros(len(samples), dtype=torch.int64)
        damaged: Damaged = []
        try:
            views = self._make.in_worker(self._images(samples, indices, damaged), samples)
        except DataError as error:
            cause = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
            return ViewBatch((), indices, damaged, str(error), cause)
        return ViewBatch(views, indices, damaged)

    def _images(self, samples: list[Sample], indices: Tensor, damaged: Damaged) -> Iterator[tuple[str, np.ndarray]]:
        """Name and pixels of each sample's image, or of the next one that can be read; what was met is noted."""
        for row, sample in enumerate(samples):
            for candidate in self._candidates(sample):
                try:
                    with self._source.reading(self._seed, sample.step, sample.position):
                        pixels = self._source.pixels(candidate, min_side=self._make.min_side_at(sample.step))
                except DamagedImage as error:
                    damaged.append((self._source.item_name(candidate), str(error)))
                    continue
                indices[row] = candidate
                yield self._source.item_name(candidate), pixels
                break

    def _candidates(self, sample: Sample) -> Iterator[int]:
        """The image, then others in a sequence that depends on nothing but seed and sample.

        Raises:
            DataError: ATTEMPTS of them were taken without success.
        """
        yield sample.image
        candidate, replacements = sample.image, keyed_generator(self._seed, SHUFFLE, sample.step, sample.image)
        for _ in range(ATTEMPTS - 1):
            candidate = int(self._indices[int(torch.randint(len(self._indices), (1,), generator=replacements))])
            yield candidate
        raise DataError(
            f"{ATTEMPTS} images in a row cannot be read, the last is {self._source.item_name(candidate)}: "
            "check the folder"
        )


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

    def for_length(self, total_steps: int) -> Batches:
        """`batches` of a run of so many steps, where views depend on how far it is."""
        self._make.total_steps = total_steps
        return self.batches

    def batches(self, first_step: int) -> Generator[tuple[tuple[Tensor, ...], Tensor]]:
        """Views and source indices of step `first_step` and each later one, without end; close it to end the workers.

        Raises:
            DataError: too many images cannot be read, or a transform fails or returns something else than two views.
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
        options: dict[str, Any] = {"pin_memory": self._device.type == "cuda", "collate_fn": _as_it_is}
        if self._workers:
            options["prefetch_factor"] = PREFETCH
            if shared_memory.NAMELESS:
                options["collate_fn"] = _in_shared_memory
            elif shared_memory.scarce():
                options["collate_fn"] = _as_arrays
        return make_loader(self._dataset, self._order, workers=self._workers, **options)

    def _next(self, made: Iterator[ViewBatch]) -> ViewBatch:
        with worker_deaths("try fewer --workers, or --cache-gib 0"):
            batch = next(made)
        for item, reason in batch.damaged:
            self._skipped.add(item, reason)
        if batch.error is not None:
            raise DataError(batch.error) from (RuntimeError(batch.cause) if batch.cause else None)
        return batch._replace(views=tuple(map(torch.as_tensor, batch.views)))


def _as_it_is(batch: ViewBatch) -> ViewBatch:
    return batch


def _in_shared_memory(batch: ViewBatch) -> ViewBatch:
    return batch._replace(views=tuple(map(shared, batch.views)), indices=shared(batch.indices))


def _as_arrays(batch: ViewBatch) -> Any:
    arrays: Any = tuple(view.numpy() for view in batch.views)
    return batch._replace(views=arrays)
