"""Annotated points of the body's surface and the parts that models see: a colour for each part."""

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
from moco.transfer.pictures.sheet import IMAGES, colour, label, paint, tile, write_sheet

_POINT = 3  # pixels of a point's radius
_COLOURS = {part: colour(part - 1) for part in range(1, PARTS + 1)}
_BOX = (255, 255, 255)


def draw_surfaces(
    annotations: Annotations, answers: Mapping[str, Iterable[tuple[Found, dict[str, Tensor]]]], file: Path
) -> None:
    """Write the picture: the images, the truth, then each model's persons of a score of at least 0.5.

    Args:
        annotations: of the images, few.
        answers: of each model by its label: boxes, and the model's own answer with its surface, in the images' order.
        file: of the PNG.
    """
    seen: set[int] = set()
    rows = {IMAGES: [tile(image.path) for image in annotations.images]}
    rows["truth"] = [_points(image, seen) for image in annotations.images]
    for name, found in answers.items():
        rows[name] = [_parts(image, *each, seen) for image, each in zip(annotations.images, found, strict=True)]
    write_sheet(rows, {f"part {part}": _COLOURS[part] for part in sorted(seen)}, file)


def _enlarged(image: AnnotatedImage) -> tuple[Image.Image, np.ndarray]:
    """The tile, and by how much it is larger in width and height."""
    shown = tile(image.path, muted=True)
    return shown, np.array([shown.width / image.width, shown.height / image.height])


def _points(image: AnnotatedImage, seen: set[int]) -> Image.Image:
    shown, scale = _enlarged(image)
    draw = ImageDraw.Draw(shown)
    for each in image.instances:
        if each.crowd:
            continue
        draw.rectangle((np.asarray(each.box) * np.tile(scale, 2)).tolist(), outline=_BOX)
        if each.surface is not None:
            for (x, y), part in zip((each.surface.points * scale).tolist(), each.surface.parts.tolist(), strict=True):
                spot = [x - _POINT, y - _POINT, x + _POINT, y + _POINT]
                draw.ellipse(spot, fill=_COLOURS[part], outline="black")
                seen.add(part)
    return shown


def _parts(image: AnnotatedImage, found: Found, answer: dict[str, Tensor], seen: set[int]) -> Image.Image:
    shown, scale = _enlarged(image)
    for index in np.flatnonzero(found.scores >= SURE)[::-1]:
        box = found.boxes[index] * np.tile(scale, 2)
        left, top, right, bottom = np.round(box).astype(int).tolist()
        surface = answer["surface"][index : index + 1]
        parts = _read(surface, max(1, right - left), max(1, bottom - top))
        person = shown.crop((left, top, left + parts.shape[1], top + parts.shape[0]))
        paint(person, parts, _COLOURS)
        shown.paste(person, (left, top))
        ImageDraw.Draw(shown).rectangle(box.tolist(), outline=_BOX)
        label(ImageDraw.Draw(shown), f"{found.scores[index]:.2f}", box.tolist(), _BOX)
        seen |= set(np.unique(parts).tolist()) - {0}
    return shown


def _read(surface: Tensor, width: int, height: int) -> np.ndarray:
    """(H, W): the part that a surface (1, 77, S, S) has at each pixel of its box, 0 for background."""
    across, down = ((torch.arange(size) + 0.5) / size for size in (width, height))
    places = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=2).reshape(1, -1, 2)
    return read_surface(surface, places.to(surface.device))[0].reshape(height, width).cpu().numpy()
