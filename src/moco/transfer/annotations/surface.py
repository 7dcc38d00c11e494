"""DensePose-COCO's entries of a person (Güler et al., 1802.00434): dp_x, dp_y, dp_I, dp_U, dp_V and dp_masks.

Coordinates dp_x and dp_y run from 0 to 255 over the person's box, dp_masks are run lengths of 256 by 256 over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moco.transfer.annotations.checks import Problems, checked_runs
from moco.transfer.annotations.record import Surface

PARTS = 24  # charts of the body's surface
SIDE = 256  # of a silhouette
LAST = 255.0  # of dp_x and dp_y: the box's right and lower edge
# Largest value of each entry, and how far rounding may lead out of 0 to there: some say 256 of the last pixel's edge.
_POINTS = {"dp_x": (LAST, 1.0), "dp_y": (LAST, 1.0), "dp_I": (PARTS, 0.0), "dp_U": (1.0, 0.01), "dp_V": (1.0, 0.01)}


def checked_surface(annotation: Mapping[str, Any], *, where: str, problems: Problems) -> Surface | None:
    """A person's points and silhouettes; None where the annotation has none, and with a line where they are bad.

    Points of part 0, the background, are left out.

    Args:
        annotation: with a box of four numbers, [left, top, width, height].
        where: names image and object in the line.
        problems: takes the line.
    """
    if not any(name in annotation for name in (*_POINTS, "dp_masks")):
        return None
    fault = _fault(annotation)
    if fault:
        problems.add(where, f"{fault}: the person's surface left out")
        return None
    silhouettes = _silhouettes(annotation["dp_masks"], where, problems)
    if silhouettes is None:
        return None
    x, y, parts, u, v = (np.asarray(annotation[name], dtype=np.float32) for name in _POINTS)
    left, top, width, height = map(float, annotation["bbox"])
    points = np.stack([left + x / LAST * width, top + y / LAST * height], axis=1)
    kept, uv = parts > 0, np.clip(np.stack([u, v], axis=1), 0, 1)
    frame = (left, top, left + width, top + height)
    return Surface(points[kept], parts[kept].astype(np.uint8), uv[kept], frame, silhouettes)


def _fault(annotation: Mapping[str, Any]) -> str | None:
    """What is wrong with the points, in a few words."""
    missing = [name for name in (*_POINTS, "dp_masks") if name not in annotation]
    if missing:
        return f"no {', '.join(missing)} beside the other dp_ entries"
    try:
        arrays = [np.asarray(annotation[name], dtype=np.float64) for name in _POINTS]
    except (TypeError, ValueError):
        return "dp_ entries that are no lists of numbers"
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        return f"{', '.join(_POINTS)} of {', '.join(str(array.size) for array in arrays)} values, expected equally many"
    for (name, (most, rounding)), array in zip(_POINTS.items(), arrays, strict=True):
        wrong = array[~((array >= -rounding) & (array <= most + rounding))]  # NaN is wrong too
        if len(wrong):
            return f"{name} {wrong[0]:g}, expected 0 to {most:g}"
    parts = arrays[2]
    if (parts != np.round(parts)).any():
        return f"dp_I {parts[parts != np.round(parts)][0]:g}, expected whole numbers"
    return None if (parts > 0).any() else "no point on a part of the body"


def _silhouettes(masks: Any, where: str, problems: Problems) -> tuple[dict[str, Any], ...] | None:
    """Run lengths of the parts that are seen; a part that is not seen is an empty entry."""
    entries = [masks] if isinstance(masks, dict) else masks
    seen = [entry for entry in entries if entry] if isinstance(entries, list) else []
    if not seen:
        problems.add(where, "dp_masks without a mask: the person's surface left out")
        return None
    checked = [checked_runs(entry, SIDE, SIDE, where=f"{where}, dp_masks", problems=problems) for entry in seen]
    found = tuple(entry for entry in checked if entry is not None)
    return found if len(found) == len(checked) else None
