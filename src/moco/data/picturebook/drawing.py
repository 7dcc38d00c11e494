"""One picture: pose, colours, background, clutter and noise, all from one random stream.

Coordinates are in frames: (0, 0) is the picture's upper left corner and (1, 1) its lower right one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from moco.data.picturebook.outline import Outline, Paint, Vary, ellipse, strip
from moco.data.picturebook.shapes import SHAPES

# Ranges with which raw pixels stay below 35 % and untrained networks below 20 %, while shapes stay legible.
SCALE = (0.7, 1.02)  # the object's size, in frames
OFFSET = 0.45  # of its centre from the picture's, in half-frames
ROTATION = 30.0  # degrees, either way

GRID = 16  # the background is painted on GRID x GRID cells and smoothed
CLOUDS = 9.0  # standard deviation of a cell's brightness, of 255
BLEND = (0.25, 0.75)  # how far the background's second colour is from its first to any other
FINENESS = 2  # polygons are drawn on a raster this many times finer, then averaged
NOISE = 10.0  # standard deviation of every pixel and channel, of 255
_CONTRAST = 110.0  # least distance of an object's own colours to the background's mean, of 255 in each channel
_CLUTTER = 4  # pieces, at most
_DRAWS = 512  # uniform numbers ready for one drawing; more than any needs
_CELLS = (np.arange(GRID) + 0.5) / GRID - 0.5

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Placed:
    """One object where it stands in a picture.

    Attributes:
        name: its class.
        outlines: its polygons from back to front, in frames; they may reach out of the picture.
        colours: of each.
        mirrored: whether its own right side is on the picture's left.
    """

    name: str
    outlines: tuple[Outline, ...]
    colours: tuple[Colour, ...]
    mirrored: bool


@dataclass(frozen=True)
class Pose:
    """From an object's own frame to the picture: mirrored or not, turned (radians), scaled, moved; in frames."""

    mirrored: bool
    half: float
    angle: float
    x: float
    y: float

    def place(self, outline: Outline) -> Outline:
        """The outline in the picture."""
        flip = -1.0 if self.mirrored else 1.0
        cos, sin = self.half * math.cos(self.angle), self.half * math.sin(self.angle)
        return [(self.x + cos * flip * x - sin * y, self.y + sin * flip * x + cos * y) for x, y in outline]


def draw_picture(name: str, size: int, generator: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8: one object of the class `name`; the generator alone decides how it looks."""
    return draw_object(name, size, generator)[0]


def draw_object(name: str, size: int, generator: np.random.Generator) -> tuple[np.ndarray, Placed]:
    """The picture of `draw_picture`, and where its object is."""
    draws: Iterator[float] = iter(generator.random(_DRAWS).tolist())

    def vary(low: float, high: float) -> float:
        return low + (high - low) * next(draws)

    backdrop = Backdrop.draw(vary, generator)
    placed = backdrop.put(name, vary, _pose)
    return backdrop.paint([placed], size, generator), placed


@dataclass(frozen=True)
class Backdrop:
    """What is behind the objects.

    Attributes:
        cells: (GRID, GRID, 3) uint8, smoothed when it is painted.
        mean: its colour on average.
        clutter: polygons with their colours.
    """

    cells: np.ndarray
    mean: list[float]
    clutter: list[tuple[Outline, Colour]]

    @classmethod
    def draw(cls, vary: Vary, generator: np.random.Generator) -> Backdrop:
        """A gradient with clouds and up to four pieces of clutter."""
        ends = np.array([_any_colour(vary), _any_colour(vary)], dtype=np.float64)
        ends[1] = ends[0] + vary(*BLEND) * (ends[1] - ends[0])
        cells = _background(ends, vary, generator)
        clutter = [_clutter_piece(vary) for _ in range(int(vary(0, _CLUTTER + 1)))]
        return cls(cells, ends.mean(axis=0).tolist(), clutter)

    def put(self, name: str, vary: Vary, pose: Callable[[Vary], Pose]) -> Placed:
        """An object of this class in colours that stand out; the pose is drawn last."""
        palette = _palette(vary, self.mean)
        parts, where = SHAPES[name](vary), pose(vary)
        outlines = tuple(where.place(outline) for _, outline in parts)
        return Placed(name, outlines, tuple(palette[paint] for paint, _ in parts), where.mirrored)

    def paint(self, objects: Iterable[Placed], size: int, generator: np.random.Generator) -> np.ndarray:
        """(size, size, 3) uint8: clutter, then the objects, the last in front, and noise."""
        fine = size * FINENESS
        canvas = Image.fromarray(self.cells).resize((fine, fine), Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(canvas)
        polygons = [pair for each in objects for pair in zip(each.outlines, each.colours, strict=True)]
        for outline, colour in [*self.clutter, *polygons]:
            draw.polygon(in_cells(outline, fine), fill=colour)
        picture = np.asarray(canvas.reduce(FINENESS), dtype=np.float32)
        noise = NOISE * generator.standard_normal(picture.shape, dtype=np.float32)
        return np.clip(picture + noise, 0, 255).astype(np.uint8)


def in_cells(outline: Outline, fine: int) -> list[int]:
    """x, y, x, y, ... on a raster of `fine` cells: corners are rounded down, to the cell that each lies in."""
    return [int(value * fine // 1) for point in outline for value in point]


def _pose(vary: Vary) -> Pose:
    """That of a picture of one object."""
    mirrored = vary(0, 1) < 0.5
    half, angle = vary(*SCALE) / 2, math.radians(vary(-ROTATION, ROTATION))
    return Pose(mirrored, half, angle, 0.5 + vary(-OFFSET, OFFSET) / 2, 0.5 + vary(-OFFSET, OFFSET) / 2)


def _background(ends: np.ndarray, vary: Vary, generator: np.random.Generator) -> np.ndarray:
    """A gradient between two colours in some direction, with clouds."""
    angle, steep, bend = vary(0, math.tau), vary(0.5, 1.1), vary(-0.5, 0.5)
    along = _CELLS * math.cos(angle) + _CELLS[:, None] * math.sin(angle)
    across = _CELLS * math.sin(angle) - _CELLS[:, None] * math.cos(angle)
    share = np.clip(0.5 + steep * along + bend * across**2, 0.0, 1.0)[..., None]
    clouds = CLOUDS * generator.standard_normal((GRID, GRID, 1))
    cells: np.ndarray = np.clip(ends[0] + share * (ends[1] - ends[0]) + clouds, 0, 255).astype(np.uint8)
    return cells


def _clutter_piece(vary: Vary) -> tuple[Outline, Colour]:
    """A short line, a dot or a triangle anywhere."""
    kind, x, y, colour = vary(0, 3), vary(0, 1), vary(0, 1), _any_colour(vary)
    if kind < 1:
        angle, length = vary(0, math.tau), vary(0.15, 0.4)
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        return strip((x, y), end, vary(0.02, 0.05)), colour
    if kind < 2:
        radius = vary(0.02, 0.07)
        return ellipse(x, y, radius, radius, 10), colour
    return [(x + vary(-0.1, 0.1), y + vary(-0.1, 0.1)) for _ in range(3)], colour


def _palette(vary: Vary, behind: list[float]) -> dict[Paint, Colour]:
    """Colours by role, the same for every class."""
    palette = {paint: _standing_out(vary, behind) for paint in ("first", "second", "third")}
    palette["dark"] = _shade(vary, 0, 60)
    palette["light"] = _shade(vary, 185, 255)
    return palette


def _standing_out(vary: Vary, behind: list[float]) -> Colour:
    """Any colour that can be told from the background; after eight attempts the last is taken."""
    colour = _any_colour(vary)
    for _ in range(7):
        if math.dist(colour, behind) >= _CONTRAST:
            break
        colour = _any_colour(vary)
    return colour


def _any_colour(vary: Vary) -> Colour:
    return _shade(vary, 0, 256)


def _shade(vary: Vary, low: float, high: float) -> Colour:
    return int(vary(low, high)), int(vary(low, high)), int(vary(low, high))
