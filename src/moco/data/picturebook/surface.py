"""Points of a person's surface in the entries of DensePose-COCO (Güler et al., 1802.00434), from its polygons.

Each of `PARTS` is a chart, numbered as in the label map. U grows from shoulder or hip to hand or foot, and from the top
of head and torso down; V from a limb's inner side to its outer one, and on head and torso from the person's right to
its left. Both are 0 and 1 where the drawn part ends, and linear between. In the mirrored picture left and right change
places, limbs keep U and V, and head and torso have 1 - V.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moco.data.picturebook.annotation import PARTS, part_map, part_names
from moco.data.picturebook.drawing import FINENESS, Placed
from moco.data.picturebook.outline import Point

POINTS = 16  # of a part, at most: the data set's annotators were given no more than 14
SIDE = 256  # cells a side of a silhouette over the person's box
LAST = 255.0  # of dp_x and dp_y: the box's right and lower edge
_HALF_CELL = 0.5 / FINENESS  # pixels; a drawn side has the whole of the cells that it runs through


def dense_pose(
    person: Placed, box: tuple[float, float, float, float], scene_parts: np.ndarray, generator: np.random.Generator
) -> dict[str, Any]:
    """dp_x, dp_y, dp_I, dp_U, dp_V and dp_masks; empty for a person too small for a pixel.

    Points are middles of pixels, drawn from those of each part; silhouettes have one mask a part, [] for one that is
    not seen.

    Args:
        person: one of the scene.
        box: its left, top, right, bottom, in pixels.
        scene_parts: (size, size), the scene's `part_map`.
        generator: draws the points.
    """
    size = len(scene_parts)
    own = np.where(part_map([person], size) == scene_parts, scene_parts, 0)  # without a neighbour's half of a pixel
    chosen = [_drawn_from(np.flatnonzero(own == part), generator) for part in range(1, len(PARTS) + 1)]
    if not sum(map(len, chosen)):
        return {}
    middles = [np.stack([each % size, each // size], axis=1) + 0.5 for each in chosen]
    uv = np.concatenate([on_chart(person, part, each, size) for part, each in enumerate(middles, start=1)])
    corner, extent = np.array(box[:2]), np.array(box[2:]) - box[:2]
    x, y = ((np.concatenate(middles) - corner) / extent * LAST).round(3).T
    return {
        "dp_x": x.tolist(),
        "dp_y": y.tolist(),
        "dp_I": np.repeat(np.arange(1, len(PARTS) + 1), list(map(len, chosen))).tolist(),
        "dp_U": uv[:, 0].round(4).tolist(),
        "dp_V": uv[:, 1].round(4).tolist(),
        "dp_masks": _silhouettes(own, corner, extent),
    }


def on_chart(person: Placed, part: int, points: np.ndarray, size: int) -> np.ndarray:
    """U and V, 0 to 1, of points (P, 2) in pixels on the part of this number: (P, 2)."""
    number = part_names(person).index(PARTS[part - 1])
    axes = _axes(person.outlines[number], person.outlines[PARTS.index("torso")], PARTS[part - 1])
    corners = size * np.array(person.outlines[number]) @ axes
    low, high = corners.min(axis=0) - _HALF_CELL, corners.max(axis=0) + _HALF_CELL
    uv: np.ndarray = np.clip((points @ axes - low) / (high - low), 0, 1)
    return uv


def _axes(outline: list[Point], torso: list[Point], name: str) -> np.ndarray:
    """Unit vectors of U and V, as columns. The person faces us, and stands upright but for its angle."""
    if name in ("head", "torso"):
        top, bottom = np.array(torso[:2]), np.array(torso[2:])
    else:  # a strip: corners 1 and 2 are its far end
        top, bottom = np.array([outline[0], outline[3]]), np.array([outline[1], outline[2]])
    x, y = bottom.sum(axis=0) - top.sum(axis=0)
    outer = -1.0 if name.startswith("right") else 1.0
    axes: np.ndarray = np.array([[x, outer * y], [y, -outer * x]]) / np.hypot(x, y)
    return axes


def _drawn_from(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.sort(generator.choice(pixels, min(POINTS, len(pixels)), replace=False)) if len(pixels) else pixels


def _silhouettes(parts: np.ndarray, corner: np.ndarray, extent: np.ndarray) -> list[Any]:
    middles = (np.arange(SIDE) + 0.5) / SIDE
    columns, rows = ((corner[axis] + middles * extent[axis]).astype(int) for axis in (0, 1))
    seen = parts[np.ix_(rows, columns)]
    masks = [seen == part for part in range(1, len(PARTS) + 1)]
    return [run_lengths(mask) if mask.any() else [] for mask in masks]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W): lengths column by column, beginning with 0s; from the fourth on
    less the last but one of them; in digits of five bits, lowest first, 32 where more follow, as characters from "0".

    By hand, since the libraries that have it come with the extra `transfer`, and drawing needs none of them.
    """
    flat = mask.T.ravel().astype(bool)
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff([*([0] if flat[0] else []), 0, *ends, flat.size]).tolist()
    text = []
    for number, length in enumerate(lengths):
        value, more = length - (lengths[number - 2] if number > 2 else 0), True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text.append(chr(48 + digit + 32 * more))
    return {"size": list(mask.shape), "counts": "".join(text)}
