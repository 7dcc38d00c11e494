"""Images of more than 8 bits a channel, or of floats: their values, the range of these, and how they become 8 bits."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple, Self

import numpy as np
from PIL import Image

LARGEST = 65535  # of 16 bits
_RANGES = (255, 1023, 4095, 16383, LARGEST)  # of 8, 10, 12, 14 and 16 bits
_LOW_BYTES = {
    "B": "L",
    "L": "B",
    "N": "B" if sys.byteorder == "little" else "L",
}  # Pillow's orders of bytes
GREY_AND_ALPHA = "LA;16B"  # Pillow's word for such a PNG of 16 bits, which it opens as RGBA
_BITS, _PLANES = 258, 284  # TIFF tags BitsPerSample, and PlanarConfiguration; 2: each channel by itself


ValueRange = int | tuple[float, float]
"""What is spread over 0 to 255: whole numbers from 0 to this one, or values from the first to the second."""


class Extent(NamedTuple):
    """The smallest and the largest finite value of an image, and whether all are whole numbers."""

    low: float
    high: float
    whole: bool


def _nothing(extent: Extent) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Depth:
    """How values of more than 8 bits become 8: `low` to `top` are spread over 0 to 255, what lies outside is cut off.

    `low` is None where no range from below is known: then whole numbers begin at 0, and floats go from 0 to 1. `seen`
    is called with the extent of each image of more than 8 bits.
    """

    top: float = LARGEST
    low: float | None = None
    seen: Callable[[Extent], None] = _nothing

    @classmethod
    def of(cls, value_range: ValueRange | None, seen: Callable[[Extent], None] = _nothing) -> Self:
        """That of a range; of none, that of 16 bits."""
        if isinstance(value_range, tuple):
            return cls(value_range[1], value_range[0], seen)
        return cls(value_range or LARGEST, None, seen)


FULL = Depth()


def range_of(largest: int) -> int:
    """The largest value of the bit depth, 8, 10, 12, 14 or 16, that holds this one; of 16 for larger ones."""
    return next((top for top in _RANGES if largest <= top), LARGEST)


def used_range(extents: Sequence[Extent]) -> ValueRange:
    """The range of images of these extents: of a bit depth for whole numbers that 16 bits hold, 0 to 1 for floats
    within, else from the smallest to the largest value.
    """
    low, high = min((e.low for e in extents), default=0.0), max((e.high for e in extents), default=float(LARGEST))
    if all(extent.whole for extent in extents) and 0 <= low <= high <= LARGEST:
        return range_of(int(high))
    if 0 <= low <= high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1.0


def range_text(value_range: ValueRange | None) -> str:
    """`0 to 4095`, `-1 to 1.5`."""
    low, high = value_range if isinstance(value_range, tuple) else (0, value_range or LARGEST)
    return f"{low:.6g} to {high:.6g}"


def extent_of(values: np.ndarray) -> Extent:
    """Of an image of any type of number."""
    whole = values.dtype.kind != "f"
    finite = values if whole else values[np.isfinite(values)]
    if not finite.size:
        return Extent(0.0, 0.0, whole)
    return Extent(float(finite.min()), float(finite.max()), whole)


def eight_bit(values: np.ndarray, cure: str = "save as 8 or 16 bit", depth: Depth = FULL) -> np.ndarray:
    """Numbers to uint8, rounded: in the range of `depth`, else whole ones from 0 to 65535, floats from 0 to 1.

    White stays white; what is no number (NaN) becomes 0 in a known range.

    Raises:
        ValueError: values outside 0 to 65535 or 0 to 1 where no range is known; `cure` is what to do then.
    """
    extent = extent_of(values)
    depth.seen(extent)
    if depth.low is not None:
        spread = (np.nan_to_num(values.astype(np.float64), nan=depth.low) - depth.low) * (255 / (depth.top - depth.low))
        return np.asarray(spread.clip(0, 255) + 0.5).astype(np.uint8)
    low, high = extent.low, extent.high
    if values.dtype.kind == "f":
        if not (low >= 0.0 and high <= 1.0 and np.isfinite(values).all()):
            raise ValueError(f"float values from {low:.4g} to {high:.4g}: expected 0 to 1, or {cure}")
        return (values * 255.0 + 0.5).astype(np.uint8)
    if low < 0 or high > LARGEST:
        raise ValueError(f"grey values from {low:.0f} to {high:.0f}: expected 0 to {LARGEST}, or {cure}")
    eight: np.ndarray = _table(int(depth.top))[values]
    return eight


@functools.cache
def _table(top: int) -> np.ndarray:
    """8 bits for each value of 16."""
    return np.asarray((np.minimum(np.arange(LARGEST + 1), top) * 255 + top // 2) // top, dtype=np.uint8)


def is_deep(image: Image.Image) -> bool:
    """Whether an image that has just been opened holds whole numbers of more than 8 bits."""
    return image.mode.startswith("I") or raw_mode(image) is not None or _in_planes(image)


def deep_values(image: Image.Image, file: IO[bytes], *, alpha: bool = False) -> np.ndarray:
    """(H, W) or (H, W, 3) whole numbers of a deep image that was opened from `file`, and one channel more for `alpha`.

    Pillow keeps the high bytes of 16-bit colour. Told that the bytes come in the other order, it gives the low ones.

    Raises:
        ValueError: 16-bit colour whose channels lie in separate planes, which Pillow garbles.
    """
    if _in_planes(image):
        raise ValueError("16-bit colour in separate planes: save its channels interleaved, or as PNG")
    raw = raw_mode(image)
    if raw is None:
        image.load()
        return np.asarray(image)
    if raw == GREY_AND_ALPHA:  # four bytes: grey, alpha
        _read_as(image, "RGBA")
        high, low = np.asarray(image)[..., ::2], np.asarray(image)[..., 1::2]
        high, low = (high, low) if alpha else (high[..., 0], low[..., 0])
    else:
        file.seek(0)
        with Image.open(file, formats=(image.format or "",)) as other:
            _read_as(other, raw[:-1] + _LOW_BYTES[raw[-1]])
            low = np.asarray(other)[..., : 3 + alpha]
        file.seek(0)
        image.load()
        high = np.asarray(image)[..., : 3 + alpha]
    return np.asarray(high.astype(np.uint16) << 8 | low)


def four_bands(image: Image.Image, file: IO[bytes]) -> np.ndarray:
    """(H, W, 4) uint8 or uint16 of a TIFF opened from `file`, of which Pillow would drop the fourth band."""
    raw = raw_mode(image)
    file.seek(0)
    if raw is None:
        with Image.open(file, formats=("TIFF",)) as other:
            return _whole(other, "RGBA")
    parts = []
    for order in (raw[-1], _LOW_BYTES[raw[-1]]):
        with Image.open(file, formats=("TIFF",)) as other:
            parts.append(_whole(other, f"RGBA;16{order}").astype(np.uint16))
        file.seek(0)
    return np.asarray(parts[0] << 8 | parts[1])


def _whole(image: Image.Image, raw_mode: str) -> np.ndarray:
    image._mode = "RGBA"
    _read_as(image, raw_mode)
    return np.asarray(image)


def _in_planes(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("RGB") and tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8


def raw_mode(image: Image.Image) -> str | None:
    """Pillow's word for how 16-bit colour, or grey with alpha, lies in the file; None for other images."""
    for tile in getattr(image, "tile", ()):
        raw = tile[3] if isinstance(tile[3], str) else (tile[3] or ("",))[0]
        if isinstance(raw, str) and ";16" in raw and not image.mode.startswith("I"):
            return raw
    return None


def _read_as(image: Image.Image, raw_mode: str) -> None:
    """Load an image as if its file said this."""
    tiles = image.tile  # type: ignore[attr-defined]
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])) for tile in tiles
    ]
    image.load()
