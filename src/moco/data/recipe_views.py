"""From an image to its views by a recipe: crops of each image, then colours on the batch.

Everything random is keyed by seed, step and the sample's position in the step, so that views depend neither on workers
nor on ranks.

N: samples of a rank's share of a step   C: channels   H, W: of a view   V: views, 1 or 2
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from moco.data.augment import CropBoxes, Poses, color_views, draw_colors
from moco.data.order import COLORS, VIEWS, EpochOrder, Sample, keyed_generator
from moco.data.views import ViewRecipe
from moco.sizes import Size, SizeByStep, height_width


class RecipeViews:
    """Random resized crops in uint8 by the worker; photometric operations in batches, on a CPU by the worker too.

    Args:
        recipe: how often and how strong.
        size: of a view in pixels, or what it is at each step. A smaller view has less blur, so that it is a full one
            made smaller.
        order: gives seed and samples of a step.
        device_type: where the photometric operations run.
        views: 2, or 1 for the first view alone, which is the same as beside a second one.

    Attributes:
        min_side: smallest side of an image that serves every step; see `min_side_at`.
        total_steps: of the run, which decide where the size changes.
    """

    def __init__(
        self, recipe: ViewRecipe, size: Size | SizeByStep, order: EpochOrder, *, device_type: str, views: int = 2
    ) -> None:
        self._sizes = size if isinstance(size, SizeByStep) else SizeByStep(size)
        self._recipe, self._views = recipe, views
        self._seed, self._step_size = order.seed, order.batch_size
        self._colors_in_worker = device_type == "cpu"
        self.min_side: int | None = recipe.min_side(self._sizes.final)
        self.total_steps = 1

    def min_side_at(self, step: int) -> int | None:
        """Smallest side of an image from which the views of a step can be cut."""
        return self._recipe.min_side(self._sizes.at(step, self.total_steps))

    def in_worker(self, images: Iterable[tuple[str, np.ndarray]], samples: list[Sample]) -> tuple[Tensor, ...]:
        """Views on a CPU; elsewhere the V x N crops, (V, N, H, W, C) uint8."""
        generator = keyed_generator(self._seed, VIEWS, samples[0].step)
        boxes = CropBoxes(2 * self._step_size, crop_min=self._recipe.crop_min, generator=generator)
        poses = Poses(2 * self._step_size, self._recipe, generator)
        size = height_width(self._sizes.at(samples[0].step, self.total_steps))
        crops_VNHWC = torch.empty(self._views, len(samples), *size, self._recipe.channels, dtype=torch.uint8)
        for row, ((_, pixels), sample) in enumerate(zip(images, samples, strict=True)):
            for view in range(self._views):
                number = sample.position + view * self._step_size
                box = boxes.box(number, *pixels.shape[:2])
                poses.place(number, pixels, box, crops_VNHWC[view, row])
        return self._color(crops_VNHWC, samples) if self._colors_in_worker else (crops_VNHWC,)

    def on_device(self, views: tuple[Tensor, ...], samples: list[Sample]) -> tuple[Tensor, ...]:
        """The photometric part, where the worker has left it."""
        return views if self._colors_in_worker else self._color(views[0], samples)

    def _color(self, crops_VNHWC: Tensor, samples: list[Sample]) -> tuple[Tensor, ...]:
        positions = torch.tensor([sample.position for sample in samples])
        generator = keyed_generator(self._seed, COLORS, samples[0].step)
        recipe = self._for_size(tuple(crops_VNHWC.shape[2:4]))
        return color_views(crops_VNHWC, recipe, draw_colors(self._step_size, positions, recipe, generator))

    def _for_size(self, size: tuple[int, ...]) -> ViewRecipe:
        """Blur in proportion to the view: a smaller one is a full one made smaller."""
        full = height_width(self._sizes.final)
        if size == full:
            return self._recipe
        scale = math.sqrt(math.prod(size) / math.prod(full))
        low, high = self._recipe.blur_sigma
        return dataclasses.replace(self._recipe, blur_sigma=(scale * low, scale * high))
