"""Sizes of images in pixels: a square's side, or height and width where they differ; sizes that grow over a run."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any

from moco.errors import ConfigError
from moco.fields import LARGEST_SIDE, limited, missed

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


SMALLEST_SIDE = 8  # pixels of a view
HALF_SIZE_SHARE = (
    0.75  # of the steps at half the size under "auto": FastDINOv2 (2507.03779) has it for 3/4 of its epochs
)
_STAGES = "expected auto, or SIZE:SHARE of the steps, as 32:0.5 or 32:0.5,48:0.25"


@dataclasses.dataclass(frozen=True)
class SizeByStep:
    """The size of the views at each step of a run: smaller ones first, `final` at the end.

    Attributes:
        final: of the rest of the run.
        stages: (size, share of the steps), one after the other from the first step on.
    """

    final: Size
    stages: tuple[tuple[Size, float], ...] = ()

    def at(self, step: int, total_steps: int) -> Size:
        """Of a step, counted from 0, in a run of so many."""
        return next((size for size, end in self.ends(total_steps) if step < end), self.final)

    def ends(self, total_steps: int) -> list[tuple[Size, int]]:
        """Each smaller size with the number of steps after which it ends."""
        done, ends = 0.0, []
        for size, part in self.stages:
            done += part
            ends.append((size, math.ceil(done * total_steps - 1e-6)))
        return ends

    def shares(self) -> list[tuple[Size, float]]:
        """Every size, the final one too, with its share of the steps."""
        return [*self.stages, (self.final, 1.0 - sum(part for _, part in self.stages))]


def size_by_step(stated: str | None, final: Size) -> SizeByStep:
    """What the option progressive_resolution means beside an image_size; None: one size.

    Raises:
        ConfigError: another text, sizes that do not grow towards `final`, shares that leave no step to it.
    """
    if stated is None:
        return SizeByStep(final)
    if stated == "auto":
        stages = [(size_of(tuple(side // 2 for side in height_width(final))), HALF_SIZE_SHARE)]
    else:
        stages = [_stage(part, stated) for part in stated.split(",")]
    sizes = [height_width(size) for size in (*(size for size, _ in stages), final)]
    said = f"progressive_resolution={stated} with image_size={size_text(final)}"
    if min(min(size) for size in sizes) < SMALLEST_SIDE:
        raise ConfigError(f"{said}: a side of {min(min(size) for size in sizes)} pixels, need at least {SMALLEST_SIDE}")
    if any(a[0] >= b[0] or a[1] >= b[1] for a, b in itertools.pairwise(sizes)):
        raise ConfigError(f"{said}: need sizes that grow, all below image_size")
    if not all(0 < part < 1 for _, part in stages) or sum(part for _, part in stages) >= 1:
        raise ConfigError(f"{said}: need shares above 0 with a sum below 1, the rest of the run has image_size")
    return SizeByStep(final, tuple(stages))


def sides(default: Any) -> Any:
    """A field with the side of an image, or with height and width."""

    def needed(value: Any) -> str:
        largest = max(height_width(value))
        return missed(largest if largest > LARGEST_SIDE else 0, SMALLEST_SIDE, LARGEST_SIDE)

    return limited(default, lambda v: all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in height_width(v)), needed)


def small_size(stated: Size | None, image_size: Size) -> Size:
    """Of small views: 96 beside 224 pixels (2006.09882), in this ratio beside others, to the nearest multiple of 8."""
    if stated is not None:
        return stated
    return size_of(tuple(8 * max(1, round(side * 96 / 224 / 8)) for side in height_width(image_size)))


def _stage(part: str, stated: str) -> tuple[Size, float]:
    size, _, share = part.strip().partition(":")
    try:
        return size_of(size, "progressive_resolution"), float(share)
    except (ConfigError, ValueError):
        raise ConfigError(f"progressive_resolution={stated!r}: {_STAGES}") from None
