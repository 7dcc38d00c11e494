"""Bad annotations: what is cut to the image, what is left out, and the lines that say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moco.transfer.annotations.record import Box

SLACK = 1.0  # pixels outside the image that are rounding, and are cut without a word
LEAST_SIDE = 1e-3  # pixels; below it a box has no area in float32
LEAST_CORNERS = 3


class Problems:
    """Lines about bad annotations, in the order in which they are met."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note one; `where` names image and object."""
        self.lines.append(f"{where}: {what}")


def checked_box(values: Sequence[Any], height: int, width: int, *, where: str, problems: Problems) -> Box | None:
    """A box inside the image; None, and a line, for one that is no box or lies outside.

    Args:
        values: left, top, right, bottom.
        height, width: of the image.
        where: names image and object in the line.
        problems: takes the line.
    """
    try:
        left, top, right, bottom = (float(value) for value in values)
    except (TypeError, ValueError):
        problems.add(where, f"box {list(values) if isinstance(values, list | tuple) else values!r}: left out")
        return None
    shown = f"box {left:g},{top:g} to {right:g},{bottom:g}"
    if not all(math.isfinite(value) for value in (left, top, right, bottom)):
        problems.add(where, f"{shown} is not finite: left out")
        return None
    if right - left < LEAST_SIDE or bottom - top < LEAST_SIDE:
        problems.add(where, f"{shown} has no area: left out")
        return None
    cut = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if cut[2] - cut[0] < LEAST_SIDE or cut[3] - cut[1] < LEAST_SIDE:
        problems.add(where, f"{shown} lies outside the image of {width}x{height}: left out")
        return None
    if max(abs(a - b) for a, b in zip(cut, (left, top, right, bottom), strict=True)) > SLACK:
        problems.add(where, f"{shown} reaches out of the image of {width}x{height}: cut to it")
    return cut


def checked_polygons(polygons: Sequence[Any], *, where: str, problems: Problems) -> list[np.ndarray] | None:
    """Polygons (P, 2) float32 of at least three corners; None, and a line each, where none is left."""
    kept = []
    for polygon in polygons:
        try:
            flat = np.asarray(polygon, dtype=np.float32).reshape(-1)
        except (TypeError, ValueError):
            problems.add(where, "a polygon that is no list of numbers: left out")
            continue
        if len(flat) % 2 or len(flat) < 2 * LEAST_CORNERS or not np.isfinite(flat).all():
            problems.add(where, f"a polygon of {len(flat) / 2:g} points, expected {LEAST_CORNERS} or more: left out")
            continue
        kept.append(flat.reshape(-1, 2))
    return kept or None


def checked_runs(runs: Any, height: int, width: int, *, where: str, problems: Problems) -> dict[str, Any] | None:
    """COCO's run lengths as they stand; None, and a line, where they are not of this image."""
    size, counts = (runs.get("size"), runs.get("counts")) if isinstance(runs, dict) else (None, None)
    if size != [height, width] or not isinstance(counts, list | str):
        problems.add(where, f"run lengths of size {size}, expected [{height}, {width}]: left out")
        return None
    if isinstance(counts, list):
        whole = all(type(count) is int and count >= 0 for count in counts)
        if not whole or sum(counts) != height * width:
            problems.add(where, f"run lengths that do not cover {height * width} pixels: left out")
            return None
    return {"size": [height, width], "counts": counts}


def checked_keypoints(values: Any, count: int, *, where: str, problems: Problems) -> np.ndarray | None:
    """(K, 3) float32; None, and a line, where they are not `count` triples of numbers."""
    try:
        points = np.asarray(values, dtype=np.float32).reshape(-1, 3)
    except (TypeError, ValueError):
        points = np.full((1, 3), np.nan, dtype=np.float32)
    if len(points) != count or not np.isfinite(points).all():
        problems.add(where, f"keypoints that are not {count} triples x, y, visibility: left out")
        return None
    return points
