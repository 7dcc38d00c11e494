"""The user's own transform, from an image to its two views."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.data.bands import RGB
from moco.data.decode import as_image
from moco.data.order import VIEWS, Sample, keyed_seed, seeded
from moco.errors import DataError

Transform = Callable[[Any], Any]


class TransformViews:
    """The user's own transform, from an image to two views; it draws from generators that are seeded for it.

    An image is a PIL image, RGB or grey; of other than 3 or 1 channels a uint8 tensor (C, H, W).

    Args:
        transform: a callable that returns two tensors (C, S, S), or a pair of callables that return one each.
        seed: of torch's, NumPy's and Python's global generators, with step and position.
        views: 2, or 1 for the first alone.
        size: height and width that the views must have, or one number for both, as the network is built for it and the
            evaluation prepares images for it; None takes any.

    Raises:
        DataError: it cannot be called; or, when called, it raises, or anything but two float tensors (C, H, W) of one
            size comes back.
    """

    min_side: int | None = None
    total_steps = 1  # of the run, on which nothing here depends

    def __init__(
        self, transform: Transform | tuple[Transform, Transform], *, seed: int, views: int = 2, size: Any = None
    ) -> None:
        self._transform = tuple(transform) if isinstance(transform, list) else transform
        self._seed, self._views = seed, views
        self._size = None if size is None else tuple(np.broadcast_to(size, 2).tolist())
        for each in self._transform if isinstance(self._transform, tuple) else (self._transform,):
            if not callable(each):
                raise DataError(f"transform is a {type(each).__name__}: expected a callable, or a pair of callables")

    def min_side_at(self, step: int) -> int | None:
        """The transform decides which pixels it needs."""
        return None

    def in_worker(self, images: Iterable[tuple[str, np.ndarray]], samples: list[Sample]) -> tuple[Tensor, ...]:
        """The views."""
        pairs = []
        for (item, pixels), sample in zip(images, samples, strict=True):
            seed = keyed_seed(self._seed, VIEWS, sample.step, sample.position)
            pairs.append(self.pair(pixels, item=item, seed=seed))
        shapes = {view.shape for pair in pairs for view in pair}
        if len(shapes) > 1:
            raise DataError(f"transform returned views of different sizes ({_listed(shapes)}): resize them alike")
        return tuple(torch.stack(views) for views in zip(*pairs, strict=True))[: self._views]

    def on_device(self, views: tuple[Tensor, ...], samples: list[Sample]) -> tuple[Tensor, ...]:
        """Nothing is left to do."""
        return views

    def pair(self, pixels: np.ndarray, *, item: str, seed: int) -> tuple[Tensor, Tensor]:
        """Both views of one image, checked; `item` is what messages call the image."""
        count = pixels.shape[2]
        image: Any = as_image(pixels) if count in (1, RGB) else torch.tensor(np.moveaxis(pixels, 2, 0))
        with seeded(seed):
            if isinstance(self._transform, tuple):
                both: Any = [_called(each, image, item) for each in self._transform]
            else:
                both = _called(self._transform, image, item)
        if not isinstance(both, tuple | list) or len(both) != 2:
            raise DataError(f"transform returned {_told(both)}: expected two views; a pair (t, t) applies t twice")
        first, second = both
        for view in both:
            if not isinstance(view, Tensor) or view.ndim != 3 or len(view) != count or not view.is_floating_point():
                raise DataError(f"transform returned {_told(view)} as a view: expected a float tensor ({count}, H, W)")
            if self._size is not None and tuple(view.shape[1:]) != self._size:
                stated, (height, width) = " x ".join(map(str, self._size)), view.shape[1:]
                raise DataError(
                    f"transform returned views of {height} x {width} pixels, expected {stated} (image_size): resize "
                    f"them, or state image_size={height if height == width else (height, width)}"
                )
        return first, second


def _called(transform: Transform, image: Any, item: str) -> Any:
    try:
        return transform(image)
    except MemoryError:
        raise
    except Exception as error:  # whatever the user's code raises
        name = getattr(transform, "__name__", type(transform).__name__)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"transform {name} failed on {item} ({what}): mend it, or leave that image out") from error


def _told(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _listed(shapes: set[torch.Size]) -> str:
    return ", ".join(sorted(str(tuple(shape)) for shape in shapes))
