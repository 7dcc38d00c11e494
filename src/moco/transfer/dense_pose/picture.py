"""Annotated points of the body's surface and the parts that models see, as one PNG: a row each."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from moco.data.decode import as_image, read_pixels
from moco.transfer.annotations import AnnotatedImage, Annotations
from moco.transfer.annotations.surface import PARTS
from moco.transfer.detection.average_precision import Found
from moco.transfer.detection.picture import SIDE, SURE, save_rows
from moco.transfer.networks.dense_head import read_surface

_SOLID = 150  # of 255: how much of a part's colour covers the image
_GRID = 96  # places a side at which a box's surface is read
_JUMP = 7  # 24ths of the circle of hues between a part and the next, so that they differ
_HUES = [part * _JUMP / PARTS % 1 for part in range(PARTS + 1)]
_COLOURS = np.array([[255 * value for value in colorsys.hsv_to_rgb(hue, 0.85, 0.9)] for hue in _HUES], dtype=np.uint8)


def draw_surfaces(
    annotations: Annotations, answers: Mapping[str, Iterable[tuple[Found, dict[str, Tensor]]]], file: Path
) -> None:
    """Write the picture: the truth in the first row, then each model's persons of a score of at least 0.5.

    Args:
        annotations: of the images, few.
        answers: of each model by its label: boxes, and the model's own answer with its surface, in the images' order.
        file: of the PNG.
    """
    rows = {"truth": [_points(image) for image in annotations.images]}
    for label, found in answers.items():
        rows[label] = [_parts(image, *each) for image, each in zip(annotations.images, found, strict=True)]
    save_rows(rows, file)


def _tile(image: AnnotatedImage) -> tuple[Image.Image, np.ndarray]:
    """The image enlarged, and by how much in width and height."""
    enlarged = SIDE / max(image.width, image.height)
    size = max(1, round(image.width * enlarged)), max(1, round(image.height * enlarged))
    tile = as_image(read_pixels(image.path)).resize(size, Image.Resampling.BILINEAR)
    return tile, np.array([tile.width / image.width, tile.height / image.height])


def _points(image: AnnotatedImage) -> Image.Image:
    tile, scale = _tile(image)
    draw = ImageDraw.Draw(tile)
    for each in image.instances:
        if each.crowd:
            continue
        draw.rectangle((np.asarray(each.box) * np.tile(scale, 2)).tolist(), outline="white")
        if each.surface is not None:
            for (x, y), part in zip((each.surface.points * scale).tolist(), each.surface.parts, strict=True):
                draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=tuple(_COLOURS[part].tolist()))
    return tile


def _parts(image: AnnotatedImage, found: Found, answer: dict[str, Tensor]) -> Image.Image:
    tile, scale = _tile(image)
    steps = (torch.arange(_GRID) + 0.5) / _GRID
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=2).reshape(1, -1, 2)
    for index in np.flatnonzero(found.scores >= SURE)[::-1]:
        left, top, right, bottom = np.round(found.boxes[index] * np.tile(scale, 2)).astype(int).tolist()
        size = max(1, right - left), max(1, bottom - top)
        surface = answer["surface"][index : index + 1]
        parts = read_surface(surface, places.to(surface.device))[0].reshape(_GRID, _GRID).cpu().numpy()
        colours = Image.fromarray(_COLOURS[parts]).resize(size, Image.Resampling.NEAREST)
        shown = Image.fromarray((parts > 0).astype(np.uint8) * np.uint8(_SOLID)).resize(size, Image.Resampling.NEAREST)
        tile.paste(colours, (left, top), mask=shown)
        ImageDraw.Draw(tile).rectangle([left, top, right, bottom], outline="white")
    return tile
