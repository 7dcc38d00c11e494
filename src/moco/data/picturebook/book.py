"""Books of pictures: each one depends on the seed and its own index alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moco.data.picturebook.drawing import draw_picture
from moco.data.picturebook.shapes import CLASSES
from moco.errors import DataError

SMALLEST = 16  # pixels; below it parts vanish
_SEEDS = 2**63  # seeds lie below this
_SHUFFLES = 2**63  # streams from here on order the classes; those below draw pictures


@dataclass(frozen=True)
class PictureBook:
    """Pictures of one object each.

    Attributes:
        images: (N, size, size, 3) uint8, RGB.
        labels: (N,) int64, indices into CLASSES.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of pictures, N."""
        return len(self.labels)


def draw_book(num_images: int, *, seed: int, size: int = 64) -> PictureBook:
    """A book of `num_images` pictures.

    Picture i is the same in every book of this seed and size, whatever the number of pictures. Among any ten in a
    row from a multiple of ten there is one of each class, in random order.

    Args:
        num_images: at least 1.
        seed: 0 to 2**63 - 1; different seeds share no picture.
        size: pixels on each side, at least 16.

    Raises:
        DataError: a number out of range, or no whole number.
    """
    _check_number("num_images", num_images, 1, None)
    _check_number("seed", seed, 0, _SEEDS - 1)
    _check_number("size", size, SMALLEST, None)
    blocks = -(-num_images // len(CLASSES))
    orders = [_stream(seed, _SHUFFLES + block).permutation(len(CLASSES)) for block in range(blocks)]
    labels = np.concatenate(orders)[:num_images].astype(np.int64)
    images = np.empty((num_images, size, size, 3), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index] = draw_picture(CLASSES[label], size, _stream(seed, index))
    return PictureBook(images, labels)


def splits(seed: int = 0, *, num_train: int = 6000, num_test: int = 2000) -> tuple[PictureBook, PictureBook]:
    """Training and held-out pictures of 64 pixels: two random streams that share no picture.

    Raises:
        DataError: a number out of range; the seed is at most 2**62 - 1.
    """
    _check_number("seed", seed, 0, _SEEDS // 2 - 1)
    return draw_book(num_train, seed=2 * seed), draw_book(num_test, seed=2 * seed + 1)


def _check_number(name: str, value: int, least: int, most: int | None) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise DataError(f"picture book: {name}={value!r}; give a whole number {bounds}")


def _stream(seed: int, number: int) -> np.random.Generator:
    """A random stream of its own for each pair: Philox is keyed, so no two overlap."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
