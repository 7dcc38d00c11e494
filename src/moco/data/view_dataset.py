"""The data set that the workers of a run read: for each sample of a step, its image decoded once and cropped twice.

All that is random is keyed by seed, step and the sample's position in the step, so that views depend neither on
workers nor on ranks.

N: samples of this rank's share of a step   V: views of an image   S: side of a view
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from moco.data.base import Source
from moco.data.color_augment import color_views, draw_colors
from moco.data.decode import DamagedImage
from moco.data.order import COLORS, SHUFFLE, VIEWS, EpochOrder, Sample, keyed_generator, keyed_seed
from moco.data.random_crop import CropBoxes, resized_crop
from moco.data.views import ViewRecipe
from moco.errors import DataError

ATTEMPTS = 100  # damaged images replaced in a row before giving up
Transform = Callable[[Image.Image], Any]  # of the user: an image to its two views


class ViewBatch(NamedTuple):
    """One rank's share of a step.

    Attributes:
        views: V tensors of N samples.
        indices: source indices of the images, (N,) int64, those of replacements where images are damaged.
        damaged: name and reason of each damaged image met.
        error: why there is no batch; None where there is one.
    """

    views: tuple[Tensor, ...]
    indices: Tensor
    damaged: list[tuple[str, str]]
    error: str | None = None


class MakeViews(Protocol):
    """What becomes of the images of a step, in the worker and then on the device."""

    min_side: int | None

    def in_worker(self, images: Iterable[np.ndarray], samples: list[Sample]) -> tuple[Tensor, ...]:
        """From images (H, W, 3) uint8, read one by one."""
        ...

    def on_device(self, views: tuple[Tensor, ...], samples: list[Sample]) -> tuple[Tensor, ...]:
        """The views (N, 3, S, S) float32 from what the worker made."""
        ...


class RecipeViews:
    """Random resized crops in uint8 by the worker; photometric operations in batches, on a CPU by the worker too.

    Args:
        recipe: how often and how strong.
        size: side of a view in pixels.
        order: gives seed and samples of a step.
        device_type: where the photometric operations run.
        views: 2, or 1 for the first view alone, which is the same as beside a second one.
    """

    def __init__(self, recipe: ViewRecipe, size: int, order: EpochOrder, *, device_type: str, views: int = 2) -> None:
        self._recipe, self._size, self._views = recipe, size, views
        self._seed, self._step_size = order.seed, order.batch_size
        self._colors_in_worker = device_type == "cpu"
        self.min_side: int | None = recipe.min_side(size)

    def in_worker(self, images: Iterable[np.ndarray], samples: list[Sample]) -> tuple[Tensor, ...]:
        """Views on a CPU; elsewhere the V x N crops, (V, N, S, S, 3) uint8."""
        generator = keyed_generator(self._seed, VIEWS, samples[0].step)
        boxes = CropBoxes(2 * self._step_size, crop_min=self._recipe.crop_min, generator=generator)
        flips = torch.rand(2 * self._step_size, generator=generator) < self._recipe.flip_probability
        crops_VNSSC = torch.empty(self._views, len(samples), self._size, self._size, 3, dtype=torch.uint8)
        for row, (pixels, sample) in enumerate(zip(images, samples, strict=True)):
            for view in range(self._views):
                number = sample.position + view * self._step_size
                box = boxes.box(number, *pixels.shape[:2])
                resized_crop(pixels, box, bool(flips[number]), crops_VNSSC[view, row].numpy())
        return self._color(crops_VNSSC, samples) if self._colors_in_worker else (crops_VNSSC,)

    def on_device(self, views: tuple[Tensor, ...], samples: list[Sample]) -> tuple[Tensor, ...]:
        """The photometric part, where the worker has left it."""
        return views if self._colors_in_worker else self._color(views[0], samples)

    def _color(self, crops_VNSSC: Tensor, samples: list[Sample]) -> tuple[Tensor, ...]:
        positions = torch.tensor([sample.position for sample in samples])
        generator = keyed_generator(self._seed, COLORS, samples[0].step)
        return color_views(crops_VNSSC, self._recipe, draw_colors(self._step_size, positions, self._recipe, generator))


class TransformViews:
    """The user's own transform, from a PIL image to two views; it draws from generators that are seeded for it.

    Args:
        transform: a callable that returns two tensors (3, S, S), or a pair of callables that return one each.
        seed: of torch's, NumPy's and Python's global generators, with step and position.
        views: 2, or 1 for the first alone.

    Raises:
        DataError: it cannot be called; or, when called, unless two float tensors (3, H, W) of one size come back.
    """

    min_side: int | None = None

    def __init__(self, transform: Transform | tuple[Transform, Transform], *, seed: int, views: int = 2) -> None:
        self._transform = tuple(transform) if isinstance(transform, list) else transform
        self._seed, self._views = seed, views
        for each in self._transform if isinstance(self._transform, tuple) else (self._transform,):
            if not callable(each):
                raise DataError(f"transform is a {type(each).__name__}: expected a callable, or a pair of callables")

    def in_worker(self, images: Iterable[np.ndarray], samples: list[Sample]) -> tuple[Tensor, ...]:
        """The views."""
        pairs = []
        for pixels, sample in zip(images, samples, strict=True):
            seed = keyed_seed(self._seed, VIEWS, sample.step, sample.position)
            pairs.append(self.pair(pixels, seed))
        shapes = {view.shape for pair in pairs for view in pair}
        if len(shapes) > 1:
            raise DataError(f"transform returned views of different sizes ({_listed(shapes)}): resize them alike")
        return tuple(torch.stack(views) for views in zip(*pairs, strict=True))[: self._views]

    def on_device(self, views: tuple[Tensor, ...], samples: list[Sample]) -> tuple[Tensor, ...]:
        """Nothing is left to do."""
        return views

    def pair(self, pixels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """Both views of one image, checked."""
        torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
        np.random.seed(seed % 2**32)
        random.seed(seed)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        try:
            both = [t(image) for t in self._transform] if isinstance(self._transform, tuple) else self._transform(image)
        finally:
            torch.set_rng_state(torch_state)
            np.random.set_state(numpy_state)
            random.setstate(python_state)
        if not isinstance(both, tuple | list) or len(both) != 2:
            raise DataError(f"transform returned {_told(both)}: expected two views; a pair (t, t) applies t twice")
        first, second = both
        for view in both:
            if not isinstance(view, Tensor) or view.ndim != 3 or len(view) != 3 or not view.is_floating_point():
                raise DataError(f"transform returned {_told(view)} as a view: expected a float tensor (3, H, W)")
        return first, second


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
        damaged: list[tuple[str, str]] = []
        try:
            views = self._make.in_worker(self._images(samples, indices, damaged), samples)
        except DataError as error:
            return ViewBatch((), indices, damaged, str(error))
        return ViewBatch(views, indices, damaged)

    def _images(self, samples: list[Sample], indices: Tensor, damaged: list[tuple[str, str]]) -> Iterator[np.ndarray]:
        """Each sample's image, or the next one that can be read; which, and which cannot, is noted."""
        for row, sample in enumerate(samples):
            for candidate in self._candidates(sample):
                try:
                    pixels = self._source.pixels(candidate, min_side=self._make.min_side)
                except DamagedImage as error:
                    damaged.append((self._source.item_name(candidate), str(error)))
                    continue
                indices[row] = candidate
                yield pixels
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


def _told(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _listed(shapes: set[torch.Size]) -> str:
    return ", ".join(sorted(str(tuple(shape)) for shape in shapes))
