"""Label maps in colors over their images: a row of images, then a row for the truth and for each model."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from moco import atomic
from moco.data.decode import read_pixels
from moco.transfer.label_maps.mean_iou import VOID

WIDTH = 320  # pixels of an image in the picture
_GAP, _LINE, _LABEL, _SHARE = 4, 14, 110, 0.7
_GOLDEN = 0.618034  # share of the circle of hues between neighbouring classes


def palette(classes: int) -> np.ndarray:
    """(256, 3) uint8: a color for each class, black for void."""
    colors = np.zeros((VOID + 1, 3), np.uint8)
    for label in range(classes):
        value = (1.0, 0.75, 0.5)[label % 3]
        colors[label] = [round(255 * part) for part in colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.75, value)]
    return colors


def draw_label_maps(
    images: Sequence[Path], rows: Mapping[str, Sequence[Tensor]], classes: Sequence[str], file: Path
) -> None:
    """Write a PNG.

    Args:
        images: files.
        rows: label maps (H, W) of each image, by what the row is called.
        classes: names, for the key below.
        file: is replaced at once.
    """
    colors = palette(len(classes))
    photos = [Image.fromarray(read_pixels(path)[..., :3]) for path in images]
    height = max(round(photo.height * WIDTH / photo.width) for photo in photos)
    lines = [[photo.resize((WIDTH, round(photo.height * WIDTH / photo.width))) for photo in photos]]
    for maps in rows.values():
        lines.append([_over(photo, labels, colors) for photo, labels in zip(lines[0], maps, strict=True)])
    names = ["", *rows]
    key = [(name, tuple(colors[label].tolist())) for label, name in enumerate(classes)] + [("void", (0, 0, 0))]
    per_line = max(1, len(photos) * (WIDTH + _GAP) // _LABEL)
    bottom = len(lines) * (height + _LINE + _GAP)
    size = (len(photos) * (WIDTH + _GAP), bottom + _LINE * -(-len(key) // per_line))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, (name, line) in enumerate(zip(names, lines, strict=True)):
        top = row * (height + _LINE + _GAP)
        draw.text((_GAP, top), name, fill="black")
        for column, picture in enumerate(line):
            canvas.paste(picture, (column * (WIDTH + _GAP), top + _LINE))
    for number, (name, color) in enumerate(key):
        left, top = number % per_line * _LABEL, bottom + number // per_line * _LINE
        draw.rectangle((left, top + 2, left + 9, top + 11), fill=color)
        draw.text((left + _LINE, top), name, fill="black")
    with atomic.replaced(file) as partial:
        canvas.save(partial, format="PNG")


def _over(photo: Image.Image, labels: Tensor, colors: np.ndarray) -> Image.Image:
    drawn = Image.fromarray(colors[labels.numpy()]).resize(photo.size, Image.Resampling.NEAREST)
    return Image.blend(photo, drawn, _SHARE)
