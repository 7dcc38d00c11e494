"""Images of more than 8 bits a channel: their values, the range that these use, and how they become 8 bits."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import IO

import numpy as np
from PIL import Image

LARGEST = 65535  # of 16 bits
_RANGES = (255, 1023, 4095, 16383, LARGEST)  # of 8, 10, 12, 14 and 16 bits
_LOW_BYTES = {
    "B": "L",
    "L": "B",
    "N": "B" if sys.byteorder == "little" else "L",
}  # Pillow's orders of bytes
_BITS, _PLANES = 258, 284  # TIFF tags BitsPerSample, and PlanarConfiguration; 2: each channel by itself


def _nothing(largest: int) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Depth:
    """How values of more than 8 bits become 8: 0 to `top` are spread over 0 to 255, what is above becomes 255.

    `seen` is called with the largest value of each image of more than 8 bits.
    """

    top: int = LARGEST
    seen: Callable[[int], None] = _nothing


FULL = Depth()


def range_of(largest: int) -> int:
    """The largest value of the bit depth, 8, 10, 12, 14 or 16, that holds this one; of 16 for larger ones."""
    return next((top for top in _RANGES if largest <= top), LARGEST)


def eight_bit(values: np.ndarray, cure: str = "save as 8 or 16 bit", depth: Depth = FULL) -> np.ndarray:
    """Whole numbers (0 to 65535) or floats (0 to 1) to uint8, rounded; white stays white.

    Raises:
        ValueError: values outside these ranges; `cure` is what to do then.
    """
    high = values.max(initial=0)
    low = values.min(initial=high)
    if values.dtype.kind == "f":
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"float values from {low:.4g} to {high:.4g}: expected 0 to 1, or {cure}")
        return (values * 255.0 + 0.5).astype(np.uint8)
    if low < 0 or high > LARGEST:
        raise ValueError(f"grey values from {low} to {high}: expected 0 to {LARGEST}, or {cure}")
    depth.seen(int(high))
    eight: np.ndarray = _table(depth.top)[values]
    return eight


@functools.cache
def _table(top: int) -> np.ndarray:
    """8 bits for each value of 16."""
    return np.asarray((np.minimum(np.arange(LARGEST + 1), top) * 255 + top // 2) // top, dtype=np.uint8)


def is_deep(image: Image.Image) -> bool:
    """Whether an image that has just been opened holds whole numbers of more than 8 bits."""
    return image.mode.startswith("I") or _raw_mode(image) is not None or _in_planes(image)


def deep_values(image: Image.Image, file: IO[bytes]) -> np.ndarray:
    """(H, W) or (H, W, 3) whole numbers of a deep image that was opened from `file`; alpha is dropped.

    Pillow keeps the high bytes of 16-bit colour. Told that the bytes come in the other order, it gives the low ones.

    Raises:
        ValueError: 16-bit colour whose channels lie in separate planes, which Pillow garbles.
    """
    if _in_planes(image):
        raise ValueError("16-bit colour in separate planes: save its channels interleaved, or as PNG")
    raw_mode = _raw_mode(image)
    if raw_mode is None:
        image.load()
        return np.asarray(image)
    if raw_mode == "LA;16B":  # four bytes: grey, alpha
        _read_as(image, "RGBA")
        high, low = np.asarray(image)[..., 0], np.asarray(image)[..., 1]
    else:
        file.seek(0)
        with Image.open(file, formats=(image.format or "",)) as other:
            _read_as(other, raw_mode[:-1] + _LOW_BYTES[raw_mode[-1]])
            low = np.asarray(other)[..., :3]
        file.seek(0)
        image.load()
        high = np.asarray(image)[..., :3]
    return np.asarray(high.astype(np.uint16) << 8 | low)


def _in_planes(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("RGB") and tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8


def _raw_mode(image: Image.Image) -> str | None:
    """Pillow's word for how 16-bit colour, or grey with alpha, lies in the file; None for other images."""
    for tile in getattr(image, "tile", ()):
        raw_mode = tile[3] if isinstance(tile[3], str) else (tile[3] or ("",))[0]
        if isinstance(raw_mode, str) and ";16" in raw_mode and not image.mode.startswith("I"):
            return raw_mode
    return None


def _read_as(image: Image.Image, raw_mode: str) -> None:
    """Load an image as if its file said this."""
    tiles = image.tile  # type: ignore[attr-defined]
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])) for tile in tiles
    ]
    image.load()
