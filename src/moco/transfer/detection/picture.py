"""Answers of several models on a few images, beside the truth, as one PNG: a row a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from moco.atomic import replaced
from moco.data.decode import as_image, read_pixels
from moco.transfer.annotations import AnnotatedImage, Annotations, Skeleton
from moco.transfer.annotations.masks import mask_of
from moco.transfer.detection.average_precision import Found

SIDE = 320  # pixels of a tile's longer side
SURE = 0.5  # answers of a lower score are not drawn
_LABEL = 18  # pixels above a row
_SOLID = 90  # of 255: how much of a mask's colour covers the image
# Distinct hues in turn: categories beyond them share.
_COLOURS = ((230, 57, 70), (29, 135, 228), (60, 180, 75), (255, 170, 0), (145, 30, 180), (0, 180, 180), (240, 50, 230))


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """What is drawn of one object."""

    box: Sequence[float]
    category: int
    text: str
    outline: Any = None
    keypoints: np.ndarray | None = None


def draw_answers(annotations: Annotations, answers: Mapping[str, Sequence[Found]], file: Path) -> None:
    """Write the picture: the truth in the first row, then each model's answers of a score of at least 0.5.

    Args:
        annotations: of the images, few.
        answers: of each model by its label, in the images' order.
        file: of the PNG.
    """
    rows = {"truth": [_truth(annotations, image) for image in annotations.images]}
    for label, found in answers.items():
        rows[label] = [_answered(annotations, each) for each in found]
    tiles = {
        label: [_tile(*pair, annotations.skeleton) for pair in zip(annotations.images, row, strict=True)]
        for label, row in rows.items()
    }
    save_rows(tiles, file)


def save_rows(rows: Mapping[str, Sequence[Image.Image]], file: Path) -> None:
    """Write rows of pictures as a PNG, each below its label; all rows show the same sizes."""
    first = next(iter(rows.values()))
    width, height = sum(tile.width for tile in first), max(tile.height for tile in first) + _LABEL
    sheet = Image.new("RGB", (width, height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (label, row) in enumerate(rows.items()):
        draw.text((4, number * height + 3), label, fill="black")
        left = 0
        for tile in row:
            sheet.paste(tile, (left, number * height + _LABEL))
            left += tile.width
    with replaced(file) as partial:
        sheet.save(partial, format="PNG")


def _truth(annotations: Annotations, image: AnnotatedImage) -> list[_Drawn]:
    return [
        _Drawn(each.box, each.category, annotations.categories[each.category - 1], each.outline, each.keypoints)
        for each in image.instances
        if not each.crowd
    ]


def _answered(annotations: Annotations, found: Found) -> list[_Drawn]:
    drawn = []
    for index in np.flatnonzero(found.scores >= SURE):
        label = int(found.labels[index])
        text = f"{annotations.categories[label - 1]} {found.scores[index]:.2f}"
        outline = None if found.runs is None else found.runs[index]
        points = None if found.keypoints is None else found.keypoints[index]
        drawn.append(_Drawn(found.boxes[index].tolist(), label, text, outline, points))
    return drawn


def _tile(image: AnnotatedImage, objects: Sequence[_Drawn], skeleton: Skeleton | None) -> Image.Image:
    enlarged = SIDE / max(image.width, image.height)
    size = max(1, round(image.width * enlarged)), max(1, round(image.height * enlarged))
    tile = as_image(read_pixels(image.path)).resize(size, Image.Resampling.BILINEAR)
    scale = np.array([tile.width / image.width, tile.height / image.height])
    for each in objects:
        if each.outline is not None and skeleton is None:
            mask = mask_of(each.outline, image.height, image.width, size=(tile.height, tile.width))
            tile.paste(_COLOURS[each.category % len(_COLOURS)], mask=Image.fromarray(mask * np.uint8(_SOLID)))
    draw = ImageDraw.Draw(tile)
    for each in objects:
        colour = _COLOURS[each.category % len(_COLOURS)]
        box = (np.asarray(each.box) * np.tile(scale, 2)).tolist()
        draw.rectangle(box, outline=colour, width=2)
        draw.text((box[0] + 3, box[1] + 1), each.text, fill=colour)
        if each.keypoints is not None and skeleton is not None:
            _draw_points(draw, each.keypoints, scale, skeleton, colour)
    return tile


def _draw_points(
    draw: ImageDraw.ImageDraw, points: np.ndarray, scale: np.ndarray, skeleton: Skeleton, colour: tuple[int, int, int]
) -> None:
    at, shown = points[:, :2] * scale, points[:, 2] > 0
    for first, second in skeleton.edges:
        if shown[first] and shown[second]:
            draw.line([*at[first].tolist(), *at[second].tolist()], fill=colour, width=2)
    for x, y in at[shown].tolist():
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
