"""From a scene to pixels: the picture, and from the very same polygons the map of its parts."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from moco.data.picturebook.scene import Filled, Scene

FINENESS = 2  # polygons are drawn on a raster this many times finer, then averaged
NOISE = 10.0  # standard deviation of every pixel and channel, of 255


def paint(scene: Scene, size: int, generator: np.random.Generator) -> np.ndarray:
    """The picture, (size, size, 3) uint8; pixel noise comes from the generator."""
    fine = size * FINENESS
    canvas = Image.fromarray(scene.background).resize((fine, fine), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    for filled in scene.clutter:
        draw.polygon(_corners(filled, fine), fill=filled.colour)
    for filled in scene.object:
        draw.polygon(_corners(filled, fine), fill=filled.colour)
    picture = np.asarray(canvas.reduce(FINENESS), dtype=np.float32)
    noise = generator.standard_normal(picture.shape, dtype=np.float32)
    noise *= NOISE
    noise += picture
    return np.clip(noise, 0, 255, out=noise).astype(np.uint8)


def part_map(scene: Scene, size: int) -> np.ndarray:
    """(size, size) uint8: the part seen at each pixel, 0 where the object covers less than half of it.

    The value is the upper median of the fine raster's: positive where at least half of them are.
    """
    fine = size * FINENESS
    canvas = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(canvas)
    for filled in scene.object:
        draw.polygon(_corners(filled, fine), fill=filled.part)
    cells = np.asarray(canvas).reshape(size, FINENESS, size, FINENESS).transpose(0, 2, 1, 3)
    return np.sort(cells.reshape(size, size, -1), axis=-1)[..., FINENESS**2 // 2]


def _corners(filled: Filled, fine: int) -> list[int]:
    """Corners on the fine raster, rounded down: the cell that each lies in."""
    return [int(value * fine // 1) for point in filled.outline for value in point]
