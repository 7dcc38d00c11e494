"""What objects are made of: polygons, back to front, in the object's own upright frame.

x points right and y down; an object fills about [-1, 1] in both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

Point = tuple[float, float]
Outline = list[Point]
Vary = Callable[[float, float], float]  # vary(low, high) is uniform between the two: where shapes get their variation
Paint = str  # "first", "second", "third": any colour; "dark", "light": a dark, a pale one
Shape = list[tuple[Paint, Outline]]  # an object's polygons from back to front, and what each is painted with


def ellipse(x: float, y: float, radius_x: float, radius_y: float, corners: int = 16) -> Outline:
    """An ellipse around (x, y) as a polygon."""
    return [(x + radius_x * c, y + radius_y * s) for c, s in _circle(corners)]


def blob(x: float, y: float, radius_x: float, radius_y: float, vary: Vary, rough: float, corners: int = 16) -> Outline:
    """An ellipse cut by an unsteady hand: each corner is up to `rough` of the radius too far in or out."""
    outline = []
    for c, s in _circle(corners):
        stretch = vary(1 - rough, 1 + rough)
        outline.append((x + radius_x * stretch * c, y + radius_y * stretch * s))
    return outline


def strip(start: Point, end: Point, width: float) -> Outline:
    """A straight line of some width."""
    (x0, y0), (x1, y1) = start, end
    scale = width / 2 / (math.hypot(x1 - x0, y1 - y0) or 1.0)
    across_x, across_y = -(y1 - y0) * scale, (x1 - x0) * scale
    return [
        (x0 + across_x, y0 + across_y),
        (x1 + across_x, y1 + across_y),
        (x1 - across_x, y1 - across_y),
        (x0 - across_x, y0 - across_y),
    ]


def box(left: float, top: float, right: float, bottom: float) -> Outline:
    """An upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def trapezoid(x: float, top: float, bottom: float, half_top: float, half_bottom: float) -> Outline:
    """Level above and below, symmetric about x."""
    return [(x - half_top, top), (x + half_top, top), (x + half_bottom, bottom), (x - half_bottom, bottom)]


def ring_sector(x: float, y: float, radius_x: float, radius_y: float, width: float, half_angle: float) -> Outline:
    """A piece of a ring around (x, y), open to the left: from -half_angle to +half_angle (radians), `width` thick."""
    angles = [half_angle * (step / 6 - 1) for step in range(13)]
    outer = [(x + radius_x * math.cos(a), y + radius_y * math.sin(a)) for a in angles]
    inner = [(x + (radius_x - width) * math.cos(a), y + (radius_y - width) * math.sin(a)) for a in reversed(angles)]
    return outer + inner


@functools.cache
def _circle(corners: int) -> Outline:
    angles = (2 * math.pi * corner / corners for corner in range(corners))
    return [(math.cos(a), math.sin(a)) for a in angles]
