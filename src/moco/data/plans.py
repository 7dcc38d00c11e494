"""What a step's batch consists of: all that is random about it is drawn, and what is left to do lies in parts.

Parts may be worked on at the same time and anywhere: a plan depends on seed, step and rank alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from moco.data.cache import DecodedCache
from moco.data.cut import BoxDraws, resized_crop_pixels
from moco.data.order import PHOTOMETRIC, SHUFFLE, VIEWS, EpochOrder, keyed_generator
from moco.data.skipped import SkippedFiles
from moco.data.source import DamagedImage, Source
from moco.data.views import BLOCK_PIXELS, PlannedViews, ViewRecipe, plan_photometric_views, plan_views
from moco.errors import DataError

Views = tuple[Tensor, ...]
ATTEMPTS = 100  # damaged images replaced in a row before giving up
_CHUNK, _MOST = 8, 16  # images in one part; the more, the smaller they are


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What becomes of one step's images.

    Attributes:
        indices: their source indices, (n,) int64; those of replacements once the part is made in which one is damaged.
        results: what is to be filled.
        parts: of the batch, to be made one by one.
        make: fills one part of the results.
    """

    indices: np.ndarray
    results: Views
    parts: list[slice]
    make: Callable[[slice], None]


@dataclasses.dataclass(kw_only=True)
class StepPlanner:
    """Plans for each step of a run.

    Attributes:
        source, order, recipe, image_size, device, rank, world_size, views, workers: as for `ViewLoader`.
        skipped: collects damaged files.
        cache: decoded images that stay in memory.
        array: all images of one size, (N, H, W, 3) uint8, where they lie in memory.
    """

    source: Source
    order: EpochOrder
    recipe: ViewRecipe
    image_size: int
    device: torch.device
    skipped: SkippedFiles
    workers: int
    rank: int
    world_size: int
    views: int
    cache: DecodedCache | None
    array: np.ndarray | None

    @property
    def min_side(self) -> int:
        """Smallest side of a decode whose smallest crop still has as many pixels as the view."""
        smallest: float = self.recipe.crop_scale[0] ** 0.5
        return math.ceil(self.image_size / smallest)

    def resident(self, step: int, out: Views | None = None) -> StepPlan:
        """The views of a step from the array; into `out`, where it is given."""
        assert self.array is not None
        array, rows, indices = self.array, *self.rows(step)
        images = torch.empty((len(rows), *array.shape[1:]), dtype=torch.uint8)
        plan = self.planned_views(images, step, out)

        def make(place: slice) -> None:
            images[place] = torch.from_numpy(np.ascontiguousarray(array[rows[place]]))
            plan.make(place)

        return StepPlan(indices, plan.views, plan.blocks, make)

    def planned_views(self, images_NHWC: Tensor, step: int, out: Views | None = None) -> PlannedViews:
        """Crops and colours of a step's images."""
        images, generator = images_NHWC.permute(0, 3, 1, 2), self.generator(VIEWS, step)
        return plan_views(images, self.recipe, self.image_size, generator, views=self.views, out=out)

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in the array the images of a step lie, and their source indices; damaged ones are replaced."""
        indices = self._indices(step)
        if self.cache is None:
            return indices, indices
        cache, kept = self.cache, self.cache.is_kept(indices)
        for position in np.flatnonzero(~kept):
            candidates = self._candidates(int(indices[position]), step)
            indices[position] = next(number for number in candidates if cache.is_kept(np.array([number]))[0])
        return cache.rows(indices).astype(np.int64), indices

    def streaming(self, step: int, out: Views | None = None) -> StepPlan:
        """The views of a step from images one by one; into `out`, where it is given."""
        cut = self.crops(step)
        (crops,) = cut.results
        generator = self.generator(PHOTOMETRIC, step)
        plan = plan_photometric_views(crops.permute(0, 1, 4, 2, 3), self.recipe, generator, out=out)

        def make(place: slice) -> None:
            cut.make(place)
            plan.make(place)

        return StepPlan(cut.indices, plan.views, cut.parts, make)

    def crops(self, step: int, out: Views | None = None) -> StepPlan:
        """The views' crops without their colours, (V, N, size, size, 3) uint8, each image by itself; into `out`."""
        indices = self._indices(step)
        count = len(indices)
        generator = self.generator(VIEWS, step)
        boxes = BoxDraws(2 * count, scale=self.recipe.crop_scale, generator=generator)
        flips = (torch.rand(2 * count, generator=generator) < self.recipe.flip_probability).tolist()
        if out is None:
            shape = (self.views, count, self.image_size, self.image_size, 3)
            out = (torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda"),)
        pixels_VNHWC = out[0].numpy()

        def make(place: slice) -> None:
            for position in range(place.start, place.stop):
                indices[position], pixels = self._load(int(indices[position]), step)
                for view in range(self.views):
                    number = position + view * count
                    box = boxes.box(number, *pixels.shape[:2])
                    resized_crop_pixels(pixels, box, flips[number], pixels_VNHWC[view, position])

        return StepPlan(indices, out, self._parts(count), make)

    def generator(self, purpose: int, step: int) -> torch.Generator:
        """The random numbers of a step for one purpose."""
        return keyed_generator(self.order.seed, purpose, step, self.rank)

    def _indices(self, step: int) -> np.ndarray:
        return self.order.batch(step, rank=self.rank, world_size=self.world_size)

    def _parts(self, count: int) -> list[slice]:
        """On a CPU they do not depend on the number of workers, nor do the last bits of a view."""
        if self.device.type == "cpu":
            size = min(_MOST, max(_CHUNK, BLOCK_PIXELS // self.image_size**2))
        else:
            size = max(1, min(_CHUNK, count // self.workers))
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

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
        return self.source.pixels(index, min_side=self.min_side)

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
