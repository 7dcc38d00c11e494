"""From an image to its views by a recipe: crops of each image, then colours on the batch.

Everything random is keyed by seed, step and the sample's position in the step, so that views depend neither on workers
nor on ranks.

N: samples of a rank's share of a step   C: channels   H, W: of a view   V: views   S: small views
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from moco.data.augment import ColorDraws, CropBoxes, Poses, Windows, color_views, draw_colors
from moco.data.order import COLORS, SMALL_COLORS, SMALL_VIEWS, VIEWS, EpochOrder, Sample, keyed_generator
from moco.data.views import ViewRecipe
from moco.sizes import Size, SizeByStep, height_width

Areas = tuple[float, float]  # smallest and largest, as shares of the image


@dataclasses.dataclass(frozen=True)
class SmallViews:
    """Views beside the two: how many, their size, and the smallest and largest area of their crops."""

    count: int
    size: Size
    areas: Areas


class RecipeViews:
    """Random crops in uint8 by the worker; photometric operations in batches, on a CPU by the worker too.

    Args:
        recipe: how often and how strong.
        size: of a view in pixels, or what it is at each step. A smaller view has less blur, so that it is a full one
            made smaller.
        order: gives seed and samples of a step.
        device_type: where the photometric operations run.
        views: 2, or 1 for the first view alone, which is the same as beside a second one.
        small: views beside these, which change nothing of them; as one further tensor, S * N, all first ones first.

    Attributes:
        min_side: smallest side of an image that serves every step; see `min_side_at`.
        total_steps: of the run, which decide where the size changes.
    """

    def __init__(
        self,
        recipe: ViewRecipe,
        size: Size | SizeByStep,
        order: EpochOrder,
        *,
        device_type: str,
        views: int = 2,
        small: SmallViews | None = None,
    ) -> None:
        self._sizes = size if isinstance(size, SizeByStep) else SizeByStep(size)
        self._recipe, self._views, self._small = recipe, views, small
        self._seed, self._step_size = order.seed, order.batch_size
        self._colors_in_worker = device_type == "cpu"
        self.min_side: int | None = self._min_side(self._sizes.final)
        self.total_steps = 1

    def min_side_at(self, step: int) -> int | None:
        """Smallest side of an image from which the views of a step can be cut."""
        return self._min_side(self._sizes.at(step, self.total_steps))

    def in_worker(self, images: Iterable[tuple[str, np.ndarray]], samples: list[Sample]) -> tuple[Tensor, ...]:
        """Views on a CPU; elsewhere the crops, (V, N, H, W, C) uint8, and those of the small views."""
        step = samples[0].step
        kinds = [self._crops(VIEWS, samples, self._sizes.at(step, self.total_steps), self._views, 2)]
        if self._small is not None:
            count, areas = self._small.count, self._small.areas
            kinds.append(self._crops(SMALL_VIEWS, samples, self._small.size, count, count, areas))
        for row, ((_, pixels), sample) in enumerate(zip(images, samples, strict=True)):
            for crops in kinds:
                crops.place(row, sample.position, pixels)
        made = tuple(crops.crops_VNHWC for crops in kinds)
        return self._color(made, samples) if self._colors_in_worker else made

    def on_device(self, views: tuple[Tensor, ...], samples: list[Sample]) -> tuple[Tensor, ...]:
        """The photometric part, where the worker has left it."""
        return views if self._colors_in_worker else self._color(views, samples)

    def _min_side(self, size: Size) -> int | None:
        side = self._recipe.min_side(size)
        if self._small is None or side is None:
            return side
        small = dataclasses.replace(self._recipe, crop_min=self._small.areas[0]).min_side(self._small.size)
        return max(side, small or 0)

    def _crops(
        self, purpose: int, samples: list[Sample], size: Size, views: int, drawn: int, areas: Areas | None = None
    ) -> _Crops:
        """Of a step: `views` of the `drawn` ones of each sample."""
        low, high = (self._recipe.crop_min, 1.0) if areas is None else areas
        generator = keyed_generator(self._seed, purpose, samples[0].step)
        boxes: CropBoxes | Windows
        if self._recipe.fixed_crop and areas is None:
            boxes = Windows(drawn * self._step_size, size=size, generator=generator)
        else:
            boxes = CropBoxes(drawn * self._step_size, crop_min=low, crop_max=high, generator=generator)
        poses = Poses(drawn * self._step_size, self._recipe, generator)
        shape = views, len(samples), *height_width(size), self._recipe.channels
        return _Crops(boxes, poses, self._step_size, torch.empty(shape, dtype=torch.uint8))

    def _color(self, made: tuple[Tensor, ...], samples: list[Sample]) -> tuple[Tensor, ...]:
        positions, step = torch.tensor([sample.position for sample in samples]), samples[0].step
        generator = keyed_generator(self._seed, COLORS, step)
        recipe = self._for_size(tuple(made[0].shape[2:4]))
        views = color_views(made[0], recipe, draw_colors(self._step_size, positions, recipe, generator))
        if self._small is None:
            return views
        generator = keyed_generator(self._seed, SMALL_COLORS, step)
        draws = ColorDraws.sample(self._small.count * self._step_size, self._recipe, generator)
        each = [draws.at(number * self._step_size + positions) for number in range(self._small.count)]
        return (*views, torch.cat(color_views(made[1], self._recipe, each)))

    def _for_size(self, size: tuple[int, ...]) -> ViewRecipe:
        """Blur in proportion to the view: a smaller one is a full one made smaller."""
        full = height_width(self._sizes.final)
        if size == full:
            return self._recipe
        scale = math.sqrt(math.prod(size) / math.prod(full))
        low, high = self._recipe.blur_sigma
        return dataclasses.replace(self._recipe, blur_sigma=(scale * low, scale * high))


@dataclasses.dataclass(frozen=True)
class _Crops:
    """Crops of one size, (V, N, H, W, C) uint8; that of view v of a sample is number position + v * step_size."""

    boxes: CropBoxes | Windows
    poses: Poses
    step_size: int
    crops_VNHWC: Tensor

    def place(self, row: int, position: int, pixels: np.ndarray) -> None:
        """The crops of one image."""
        for view, crops_NHWC in enumerate(self.crops_VNHWC):
            number = position + view * self.step_size
            self.poses.place(number, pixels, self.boxes.box(number, *pixels.shape[:2]), crops_NHWC[row])
