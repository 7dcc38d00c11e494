"""Recipes, sources and loaders that several tests of views use."""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import time

import numpy as np
import torch
from torch import Tensor

from moco import recipes
from moco.data.arrays import ArraySource
from moco.data.base import Source
from moco.data.decode import DamagedImage
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews
from moco.data.skipped import SkippedFiles
from moco.data.user_transform import TransformViews
from moco.data.views import ViewRecipe, view_recipe

PLAIN = ViewRecipe(  # keeps colours as they are, so that a view of a flat image tells which one it is
    crop_min=0.2,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
RECIPES = {name: view_recipe(recipe()) for name, recipe in recipes.RECIPES.items()}
EVERYTHING = dataclasses.replace(  # whatever a recipe may hold, at its strongest
    RECIPES["v2"],
    brightness=1.5,
    contrast=1.2,
    saturation=1.5,
    hue=0.5,
    jitter_probability=0.9,
    blur_probability=0.6,
    solarize_probability=0.5,
)
SIZE = 12  # pixels of a loader's views


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ks_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov-Smirnov: the largest distance of the two empirical distribution functions."""
    places = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(sample), places, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Coarse noise, so that crops keep colour, with three flat ones; (N, S, S, 3) uint8."""
    coarse = torch.rand(count, 3, 4, 4, generator=generator(seed)) * 255
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255).byte()
    images[:3] = torch.tensor([0, 255, 90], dtype=torch.uint8)[:, None, None, None]
    return images.permute(0, 2, 3, 1).contiguous()


class Reddish(Source):
    """Images of several sizes, made on request; image i has the red value i everywhere. Visits are counted, in worker
    processes too.

    Args:
        count: images.
        damaged: those that cannot be read.
        broken: those at which the source raises what it should not.
        slow: those that take half a minute.
    """

    def __init__(self, count: int, *, damaged=(), broken=(), slow=()) -> None:
        super().__init__(count, name="reddish")
        self.damaged, self.broken, self.slow = set(damaged), set(broken), set(slow)
        self.visits = shared_counts(count)
        self.min_sides = set()  # of this process

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        place = self._place(index)
        self.visits[place] += 1
        self.min_sides.add(min_side)
        if place in self.slow:
            time.sleep(30)
        if place in self.broken:
            raise RuntimeError("the disk is on fire")
        if place in self.damaged:
            raise DamagedImage(self.item_name(index), "truncated")
        shape = (20 + place % 3, 25 - place % 4, 3)
        pixels = np.random.default_rng(place).integers(0, 256, shape, dtype=np.uint8)
        pixels[..., 0] = place
        return pixels

    def item_name(self, index: int) -> str:
        return f"{self._place(index):03d}.jpg"


def shared_counts(count: int) -> np.ndarray:
    """(count,) int64 zeros in memory that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, 8 * count), dtype=np.int64)


def reddish_array(count: int) -> ArraySource:
    """The same as one array of one size."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(count)[:, None, None]
    return ArraySource(pixels)


SOURCES = {"array": reddish_array, "files": Reddish}


def loader(
    source,
    *,
    batch=4,
    recipe=PLAIN,
    transform=None,
    seed=3,
    indices=None,
    rank=0,
    world_size=1,
    views=2,
    workers=0,
    skipped=None,
) -> ViewLoader:
    """A loader on the CPU; `transform` takes the recipe's place."""
    indices = np.arange(len(source)) if indices is None else np.asarray(indices)
    order = EpochOrder(indices, batch_size=batch, seed=seed, rank=rank, world_size=world_size)
    make = (
        RecipeViews(recipe, SIZE, order, device_type="cpu", views=views)
        if transform is None
        else TransformViews(transform, seed=seed, views=views)
    )
    skipped = SkippedFiles() if skipped is None else skipped
    return ViewLoader(source, order, make, device=torch.device("cpu"), skipped=skipped, workers=workers)


def take(one: ViewLoader, count: int, first_step: int = 0) -> list[tuple[Tensor, ...]]:
    """Of each of so many steps, its views and, last, its images' indices."""
    batches = one.batches(first_step)
    try:
        return [(*views, indices) for views, indices in itertools.islice(batches, count)]
    finally:
        batches.close()


def same(first, second) -> bool:
    """Bitwise, over all steps and all tensors."""
    pairs = list(zip(itertools.chain(*first), itertools.chain(*second), strict=True))
    return bool(pairs) and all(torch.equal(one, two) for one, two in pairs)


def numbers(view: Tensor) -> list[int]:
    """Which images a view holds: the red values."""
    return (view[:, 0].amax((1, 2)) * 255).round().int().tolist()
