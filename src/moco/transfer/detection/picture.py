"""Answers of several models on a few images, beside the truth: boxes, and what the task asks for in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from moco.transfer.annotations import AnnotatedImage, Annotations, Skeleton
from moco.transfer.annotations.masks import mask_of
from moco.transfer.detection.average_precision import Found, Kind
from moco.transfer.pictures.sheet import IMAGES, colour, label, paint, tile, write_sheet

SURE = 0.5  # answers of a lower score are not drawn
_LIMB, _RIM, _POINT = 3, 6, 4  # pixels: a line's width, with its dark rim; a point's radius


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """What is drawn of one object."""

    box: Sequence[float]
    category: int
    text: str
    outline: Any = None
    keypoints: np.ndarray | None = None


def draw_answers(annotations: Annotations, answers: Mapping[str, Sequence[Found]], kind: Kind, file: Path) -> None:
    """Write the picture: the images, the truth, then each model's answers of a score of at least 0.5.

    Args:
        annotations: of the images, few.
        answers: of each model by its label, in the images' order.
        kind: whether masks or keypoints are drawn in the boxes. An annotation file may have either, whatever is learnt.
        file: of the PNG.
    """
    rows = {"truth": [_truth(annotations, image) for image in annotations.images]}
    for name, found in answers.items():
        rows[name] = [_answered(annotations, each) for each in found]
    tiles = {IMAGES: [tile(image.path) for image in annotations.images]}
    skeleton = annotations.skeleton if kind == "keypoints" else None
    for name, row in rows.items():
        pairs = zip(annotations.images, row, strict=True)
        tiles[name] = [_tile(*pair, masks=kind == "segm", skeleton=skeleton) for pair in pairs]
    write_sheet(tiles, {}, file)


def _truth(annotations: Annotations, image: AnnotatedImage) -> list[_Drawn]:
    return [
        _Drawn(each.box, each.category, annotations.categories[each.category - 1], each.outline, each.keypoints)
        for each in image.instances
        if not each.crowd
    ]


def _answered(annotations: Annotations, found: Found) -> list[_Drawn]:
    drawn = []
    for index in np.flatnonzero(found.scores >= SURE)[::-1]:
        number = int(found.labels[index])
        text = f"{annotations.categories[number - 1]} {found.scores[index]:.2f}"
        outline = None if found.runs is None else found.runs[index]
        points = None if found.keypoints is None else found.keypoints[index]
        drawn.append(_Drawn(found.boxes[index].tolist(), number, text, outline, points))
    return drawn


def _tile(image: AnnotatedImage, objects: Sequence[_Drawn], *, masks: bool, skeleton: Skeleton | None) -> Image.Image:
    shown = tile(image.path, muted=True)
    # An object's mask is told from its neighbour's, a box's category from another's.
    colours = [colour(number if masks else each.category - 1) for number, each in enumerate(objects)]
    scale = np.array([shown.width / image.width, shown.height / image.height])
    for each, own in zip(objects, colours, strict=True):
        if masks and each.outline is not None:
            area = mask_of(each.outline, image.height, image.width, size=(shown.height, shown.width))
            paint(shown, area, {1: own})
    draw = ImageDraw.Draw(shown)
    boxes = [(np.asarray(each.box) * np.tile(scale, 2)).tolist() for each in objects]
    for each, box, own in zip(objects, boxes, colours, strict=True):
        draw.rectangle(box, outline=own, width=1 if masks or skeleton else 2)
        if each.keypoints is not None and skeleton is not None:
            _draw_points(draw, each.keypoints, scale, skeleton)
    for each, box, own in zip(objects, boxes, colours, strict=True):
        label(draw, each.text, box, own)
    return shown


def _draw_points(draw: ImageDraw.ImageDraw, points: np.ndarray, scale: np.ndarray, skeleton: Skeleton) -> None:
    """Lines of a colour each with a dark rim, and the points on them."""
    at, visible = points[:, :2] * scale, points[:, 2] > 0
    lines = [
        ([*at[first].tolist(), *at[second].tolist()], colour(number))
        for number, (first, second) in enumerate(skeleton.edges)
        if visible[first] and visible[second]
    ]
    for line, _ in lines:
        draw.line(line, fill="black", width=_RIM)
    for line, each in lines:
        draw.line(line, fill=each, width=_LIMB)
    for x, y in at[visible].tolist():
        draw.ellipse([x - _POINT, y - _POINT, x + _POINT, y + _POINT], fill="white", outline="black")
