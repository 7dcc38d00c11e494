"""Where the objects of a picture are, in pixels, from the polygons that it was drawn with: nothing is looked for.

A pixel is an object's where at least half of the finer cells that it is averaged from are; coordinates are pixels from
the picture's upper left corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from moco.data.picturebook.drawing import FINENESS, Placed, in_cells
from moco.data.picturebook.outline import Outline, Point

VISIBLE = 2  # COCO's word for a keypoint that is seen; 0 is one outside the picture
PERSON = "person"
# A person's polygons in the order of `shapes.person`, for one that is not mirrored: it faces us, so that its right is
# on the picture's left.
PARTS = ("right_arm", "left_arm", "right_leg", "left_leg", "torso", "head")
KEYPOINTS = (
    *("head", "right_shoulder", "left_shoulder", "right_hand", "left_hand"),
    *("right_hip", "left_hip", "right_foot", "left_foot"),
)
SKELETON = ((1, 2), (1, 3), (2, 4), (3, 5), (2, 6), (3, 7), (6, 8), (7, 9))  # pairs of keypoints, from 1


@dataclass(frozen=True)
class Annotation:
    """One object of a picture.

    Attributes:
        name: its class.
        box: left, top, right, bottom, inside the picture.
        polygons: x, y, x, y, ... each; what they cover together is the object, as far as it is in the picture.
        area: of its mask, in pixels.
        keypoints: x, y and 0 or 2 for each of `KEYPOINTS`; None but for a person.
    """

    name: str
    box: tuple[float, float, float, float]
    polygons: tuple[tuple[float, ...], ...]
    area: int
    keypoints: tuple[tuple[float, float, int], ...] | None = None


def annotate(objects: Sequence[Placed], size: int) -> list[Annotation]:
    """One for each object of a picture whose objects do not cover each other; `size` is the picture's, in pixels."""
    areas = np.bincount(label_map(_numbered(objects), size).ravel(), minlength=len(objects) + 1)
    return [_annotation(each, size, int(area)) for each, area in zip(objects, areas[1:], strict=True)]


def class_map(objects: Iterable[Placed], classes: Sequence[str], size: int) -> np.ndarray:
    """(size, size) uint8: 0 for the background, else 1 + the index of the object's class."""
    return label_map(((outline, classes.index(e.name) + 1) for e in objects for outline in e.outlines), size)


def part_map(objects: Iterable[Placed], size: int) -> np.ndarray:
    """(size, size) uint8: 1 + the index in `PARTS` where a person is, else 0."""
    labels = []
    for each in objects:
        of_person, names = each.name == PERSON, part_names(each)
        labels += [(o, PARTS.index(names[i]) + 1 if of_person else 0) for i, o in enumerate(each.outlines)]
    return label_map(labels, size)


def part_names(person: Placed) -> tuple[str, ...]:
    """What each of a person's polygons is, one of `PARTS`."""
    return tuple(_swapped(name) if person.mirrored else name for name in PARTS)


def label_map(labelled: Iterable[tuple[Outline, int]], size: int) -> np.ndarray:
    """(size, size) uint8: the labels of outlines, drawn one over the other as colours are; 0 where none is."""
    fine = size * FINENESS
    canvas = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(canvas)
    for outline, label in labelled:
        draw.polygon(in_cells(outline, fine), fill=label)
    cells = np.asarray(canvas).reshape(size, FINENESS, size, FINENESS).swapaxes(1, 2).reshape(size, size, -1)
    return np.sort(cells, axis=-1)[..., FINENESS**2 // 2].copy()  # a label that half of the cells have, or more


def extent(outlines: Iterable[Outline], size: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is drawn, in pixels; outside the picture too."""
    cells = [in_cells(outline, size * FINENESS) for outline in outlines]
    x, y = (np.concatenate([each[axis::2] for each in cells]) for axis in (0, 1))
    left, top, right, bottom = (float(value) / FINENESS for value in (x.min(), y.min(), x.max() + 1, y.max() + 1))
    return left, top, right, bottom


def _numbered(objects: Iterable[Placed]) -> list[tuple[Outline, int]]:
    return [(outline, number) for number, each in enumerate(objects, start=1) for outline in each.outlines]


def _annotation(placed: Placed, size: int, area: int) -> Annotation:
    left, top, right, bottom = (min(max(value, 0.0), float(size)) for value in extent(placed.outlines, size))
    polygons = []
    for outline in placed.outlines:
        cells = in_cells(outline, size * FINENESS)
        corners = [(x + 0.5, y + 0.5) for x, y in zip(cells[::2], cells[1::2], strict=True)]
        inside = clipped([(x / FINENESS, y / FINENESS) for x, y in widened(corners, 0.5)], size)
        if len(inside) > 2:
            polygons.append(tuple(round(value, 3) for point in inside for value in point))
    points = person_keypoints(placed, size) if placed.name == PERSON else None
    return Annotation(placed.name, (left, top, right, bottom), tuple(polygons), area, points)


def widened(outline: Outline, by: float) -> Outline:
    """A polygon whose sides lie `by` further out, as a drawn one has the whole of the cells that its sides run through;
    sharp corners move out by no more than 2 `by`.
    """
    points = [point for point, before in zip(outline, outline[-1:] + outline[:-1], strict=True) if point != before]
    if len(points) < 3:
        return outline
    corners = np.array(points)
    ahead = np.roll(corners, -1, axis=0) - corners
    x, y = corners.T
    turn = np.sign(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) or 1.0
    normals = turn * np.stack([ahead[:, 1], -ahead[:, 0]], axis=1) / np.linalg.norm(ahead, axis=1, keepdims=True)
    both = normals + np.roll(normals, 1, axis=0)
    length = np.linalg.norm(both, axis=1, keepdims=True)
    moved = corners + by * np.minimum(2 / np.maximum(length, 1e-9), 2.0) * both / np.maximum(length, 1e-9)
    return [(float(x), float(y)) for x, y in moved]


def clipped(outline: Outline, size: float) -> Outline:
    """What of a polygon is in the square from 0 to `size`, by Sutherland and Hodgman, one side after the other."""
    for axis, sign, bound in ((0, 1.0, 0.0), (0, -1.0, -size), (1, 1.0, 0.0), (1, -1.0, -size)):
        kept: Outline = []
        for before, point in zip(outline[-1:] + outline[:-1], outline, strict=True):
            past, here = sign * before[axis] - bound, sign * point[axis] - bound
            if past * here < 0:
                kept.append(_between(before, point, past / (past - here)))
            if here >= 0:
                kept.append(point)
        outline = kept
    return outline


def person_keypoints(placed: Placed, size: int) -> tuple[tuple[float, float, int], ...]:
    """x, y in pixels and 2, or 0, 0, 0 for a point outside the picture, in the order of `KEYPOINTS`."""
    found: dict[str, Point] = {"head": _middle(placed.outlines[PARTS.index("head")])}
    for part, near, far in (("arm", "shoulder", "hand"), ("leg", "hip", "foot")):
        for side in ("right", "left"):
            limb = placed.outlines[PARTS.index(f"{side}_{part}")]  # a strip: corners 1 and 2 are its far end
            own = _swapped(side) if placed.mirrored else side
            found[f"{own}_{near}"] = _middle([limb[0], limb[3]])
            found[f"{own}_{far}"] = _middle([limb[1], limb[2]])
    points = [tuple(round(value * size, 3) for value in found[name]) for name in KEYPOINTS]
    return tuple((x, y, VISIBLE) if 0 <= x < size and 0 <= y < size else (0.0, 0.0, 0) for x, y in points)


def _swapped(name: str) -> str:
    left = name.startswith("left")
    return name.replace("left", "right") if left else name.replace("right", "left")


def _middle(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
