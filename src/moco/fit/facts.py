"""What the rules need to know of the images and of the machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moco.config import Config
from moco.data.base import Source, spaced
from moco.data.decode import DamagedImage
from moco.data.workers import cores
from moco.errors import DataError
from moco.fit.budget import ON_CPU, ON_GPU
from moco.fit.inputs import Facts
from moco.fit.rules import LEAST_IMAGES
from moco.training.device import expected_device
from moco.training.images import RunImages
from moco.training.memory import memory_bytes

_SIZES, _COLOURS = 256, 16  # images looked at


def look(images: RunImages, config: Config, budget: float | None) -> Facts:
    """The facts of a run on these images; `budget`: stated seconds.

    Raises:
        DataError: too few images to learn from.
    """
    count = len(images.pretraining)
    if count < LEAST_IMAGES:
        raise DataError(
            f"{images.source.name}: {count} images to learn from, expected at least {LEAST_IMAGES}: give more, or "
            "name a recipe and a batch (--recipe v2 --batch-size 16)"
        )
    device = expected_device(config)
    gpu = device.type != "cpu"
    return Facts(
        images=count,
        side=_side(images),
        grey=_grey(images),
        gpu=gpu,
        cores=cores(),
        memory=memory_bytes(device),
        budget=budget or (ON_GPU if gpu else ON_CPU),
    )


def _side(images: RunImages) -> int:
    """Median of the shorter sides of a sample, in pixels."""
    sample = images.pretraining[spaced(len(images.pretraining), _SIZES)]
    shapes = images.source.shapes(sample)
    if shapes is None:
        shapes = np.array([pixels.shape[:2] for pixels in _pixels(images.source, sample, None)]).reshape(-1, 2)
    sides = shapes.min(axis=1)
    sides = sides[sides > 0]
    return int(np.median(sides)) if len(sides) else 32


def _grey(images: RunImages) -> bool:
    sample = images.pretraining[spaced(len(images.pretraining), _COLOURS)]
    return all((pixels == pixels[..., :1]).all() for pixels in _pixels(images.source, sample, 64))


def _pixels(source: Source, sample: np.ndarray, min_side: int | None) -> Iterator[np.ndarray]:
    for index in sample[:: max(1, len(sample) // _COLOURS)]:
        try:
            with source.reading(0, 0, int(index)):
                yield source.pixels(int(index), min_side=min_side)
        except DamagedImage:
            continue
