"""Sizes of images in pixels: the side of a square, or height and width where they differ."""

from __future__ import annotations

import re
from typing import Any

from moco.errors import ConfigError

Size = int | tuple[int, int]
"""Side of a square, or (height, width); a square is always given by its side."""
StatedSize = Size | str
"""A size as users state it: also "64x96", height x width."""


def size_of(value: Any, name: str = "image_size") -> Size:
    """A size that a user states, as 64, "64", "64x96", (64, 96) or [64, 96]; `name` is what a message calls it.

    Raises:
        ConfigError: it is none of these. How small a side may be is the caller's to check.
    """
    sides = value if isinstance(value, tuple | list) else [value]
    if isinstance(value, str) and re.fullmatch(r"\d+(x\d+)?", value.strip()):
        sides = [int(side) for side in value.split("x")]
    if len(sides) not in (1, 2) or any(type(side) is not int for side in sides):
        raise ConfigError(f"{name}={value!r}: expected a side in pixels, or HEIGHTxWIDTH as in 64x96")
    return int(sides[0]) if sides[0] == sides[-1] else (int(sides[0]), int(sides[1]))


def height_width(size: Size) -> tuple[int, int]:
    """Height and width."""
    return size if isinstance(size, tuple) else (size, size)


def size_text(size: Any) -> str:
    """`64`, `64x96`."""
    return "x".join(map(str, size)) if isinstance(size, tuple | list) else str(size)
