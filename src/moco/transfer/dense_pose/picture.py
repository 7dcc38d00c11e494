"""Annotated points of the body's surface and what models see: a colour for each part, and others for U and V on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from moco.transfer.annotations import AnnotatedImage, Annotations
from moco.transfer.annotations.surface import PARTS
from moco.transfer.detection.average_precision import Found
from moco.transfer.detection.picture import SURE
from moco.transfer.networks.dense_head import read_surface
from moco.transfer.pictures.sheet import IMAGES, Colour, colour, label, paint, tile, write_sheet

_POINT = 3  # pixels of a point's radius
_COLOURS = {part: colour(part - 1) for part in range(1, PARTS + 1)}
_STEPS = 8  # of U and of V that are told apart: their borders are lines of equal U or V
_CHART_BLUE = 160  # of 255; red grows with U, green with V
_BOX = (255, 255, 255)
_CHARTS = ": U and V"  # ends the name of a row
Pair = tuple[Image.Image, Image.Image]


def draw_surfaces(
    annotations: Annotations, answers: Mapping[str, Iterable[tuple[Found, dict[str, Tensor]]]], file: Path
) -> None:
    """Write the picture: the images, the truth, then each model's persons of a score of at least 0.5; of the truth and
    each model a row of parts, and one of U and V.

    Args:
        annotations: of the images, few.
        answers: of each model by its label: boxes, and the model's own answer with its surface, in the images' order.
        file: of the PNG.
    """
    seen: set[int] = set()
    rows = {IMAGES: [tile(image.path) for image in annotations.images]}
    drawn = {"truth": [_points(image, seen) for image in annotations.images]}
    for name, found in answers.items():
        drawn[name] = [_answers(image, *each, seen) for image, each in zip(annotations.images, found, strict=True)]
    for name, pairs in drawn.items():
        rows[name], rows[name + _CHARTS] = ([pair[which] for pair in pairs] for which in (0, 1))
    ends = {f"U {u}, V {v}": _chart_colour(u, v) for v in (0, 1) for u in (0, 1)}
    write_sheet(rows, {f"part {part}": _COLOURS[part] for part in sorted(seen)} | ends, file)


def _enlarged(image: AnnotatedImage) -> tuple[Pair, np.ndarray]:
    """Two tiles, for parts and for U and V, and by how much they are larger in width and height."""
    shown = tile(image.path, muted=True)
    return (shown, shown.copy()), np.array([shown.width / image.width, shown.height / image.height])


def _points(image: AnnotatedImage, seen: set[int]) -> Pair:
    shown, scale = _enlarged(image)
    for each in image.instances:
        if each.crowd:
            continue
        colours: tuple[list[Colour], ...] = ([], [])
        if each.surface is not None:
            steps = _step_numbers(each.surface.uv).tolist()
            colours = [_COLOURS[part] for part in each.surface.parts.tolist()], [_CHART_COLOURS[step] for step in steps]
            seen |= set(each.surface.parts.tolist())
        for draw, fills in zip(map(ImageDraw.Draw, shown), colours, strict=True):
            draw.rectangle((np.asarray(each.box) * np.tile(scale, 2)).tolist(), outline=_BOX)
            places = [] if each.surface is None else (each.surface.points * scale).tolist()
            for (x, y), fill in zip(places, fills, strict=True):
                draw.ellipse([x - _POINT, y - _POINT, x + _POINT, y + _POINT], fill=fill, outline="black")
    return shown


def _answers(image: AnnotatedImage, found: Found, answer: dict[str, Tensor], seen: set[int]) -> Pair:
    shown, scale = _enlarged(image)
    for index in np.flatnonzero(found.scores >= SURE)[::-1]:
        box = found.boxes[index] * np.tile(scale, 2)
        left, top, right, bottom = np.round(box).astype(int).tolist()
        surface = answer["surface"][index : index + 1]
        parts, uv = _read(surface, max(1, right - left), max(1, bottom - top))
        charts = np.where(parts > 0, _step_numbers(uv), 0)
        for each, areas, colours in zip(shown, (parts, charts), (_COLOURS, _CHART_COLOURS), strict=True):
            person = each.crop((left, top, left + parts.shape[1], top + parts.shape[0]))
            paint(person, areas, colours)
            each.paste(person, (left, top))
            ImageDraw.Draw(each).rectangle(box.tolist(), outline=_BOX)
            label(ImageDraw.Draw(each), f"{found.scores[index]:.2f}", box.tolist(), _BOX)
        seen |= set(np.unique(parts).tolist()) - {0}
    return shown


def _read(surface: Tensor, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """What a surface (1, 77, S, S) says at each pixel of its box: parts (H, W), 0 for background, and uv (H, W, 2)."""
    across, down = ((torch.arange(size) + 0.5) / size for size in (width, height))
    places = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=2).reshape(1, -1, 2)
    parts, uv = read_surface(surface, places.to(surface.device))
    return parts.reshape(height, width).cpu().numpy(), uv.reshape(height, width, 2).cpu().numpy()


def _step_numbers(uv: np.ndarray) -> np.ndarray:
    """Which pair of steps each U and V (..., 2) lies in: a key of `_CHART_COLOURS`."""
    steps = np.minimum((uv * _STEPS).astype(int), _STEPS - 1)
    numbers: np.ndarray = 1 + steps[..., 0] + _STEPS * steps[..., 1]
    return numbers


def _chart_colour(u: float, v: float) -> Colour:
    return round(255 * u), round(255 * v), _CHART_BLUE


_CHART_COLOURS = {
    1 + u + _STEPS * v: _chart_colour(u / (_STEPS - 1), v / (_STEPS - 1)) for u in range(_STEPS) for v in range(_STEPS)
}
