"""Scenes: several objects of the picture book on one background, at different sizes, none before another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from moco.data.picturebook.annotation import PERSON, extent
from moco.data.picturebook.drawing import ROTATION, Backdrop, Placed, Pose
from moco.data.picturebook.outline import Vary
from moco.data.picturebook.shapes import CLASSES

SPAN = (0.28, 0.5)  # an object's size in frames; as many small ones as large ones on a logarithmic scale
OBJECTS = (2, 6)  # of a scene, as far as there is room
_ATTEMPTS = 30  # to find room for an object
_SCENES = 2**62  # streams from here on draw scenes; those below draw pictures of one object
_SURFACES = 2**62 + 2**61  # streams from here on draw points of persons' surfaces


@dataclass(frozen=True)
class Kind:
    """What scenes show.

    Attributes:
        weights: how often each class is drawn for a train scene, in proportion.
        test_weights: the same for test scenes.
    """

    weights: Mapping[str, float]
    test_weights: Mapping[str, float]


_EQUAL = dict.fromkeys(CLASSES, 1.0)
_PEOPLE = {name: 9.0 if name == PERSON else 0.5 for name in CLASSES}
# In some 400 scenes: four classes in over 100, three in some 30, three in a handful, as LVIS tells them apart.
_TAIL = dict(zip(CLASSES, (*[1.0] * 4, *[0.15] * 3, *[0.04] * 3), strict=True))
KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {"objects": Kind(_EQUAL, _EQUAL), "people": Kind(_PEOPLE, _PEOPLE), "long-tail": Kind(_TAIL, _EQUAL)}
)


def draw_scene(
    weights: Mapping[str, float], size: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[Placed]]:
    """(size, size, 3) uint8 and its objects, none of which reaches into another's box or out of the scene."""

    def vary(low: float, high: float) -> float:
        return low + (high - low) * float(generator.random())

    backdrop, names = Backdrop.draw(vary, generator), list(weights)
    shares = np.array([weights[name] for name in names])
    chosen = generator.choice(names, size=int(generator.integers(*OBJECTS, endpoint=True)), p=shares / shares.sum())
    placed: list[Placed] = []
    for name in chosen.tolist():
        for _ in range(_ATTEMPTS):
            tried = backdrop.put(name, vary, _pose)
            if _has_room(tried, placed, size):
                placed.append(tried)
                break
    return backdrop.paint(placed, size, generator), placed


def scene_stream(seed: int, kind: str, index: int) -> np.random.Generator:
    """The random stream of one scene: no other scene or picture has it."""
    return _stream(seed, _SCENES + list(KINDS).index(kind) * 2**48 + index)


def surface_stream(seed: int, index: int) -> np.random.Generator:
    """The random stream of the points of one scene's persons: the scene's own has no draw more or less for them."""
    return _stream(seed, _SURFACES + index)


def _stream(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))


def _pose(vary: Vary) -> Pose:
    mirrored = vary(0, 1) < 0.5
    half, angle = math.exp(vary(*map(math.log, SPAN))) / 2, math.radians(vary(-ROTATION, ROTATION))
    return Pose(mirrored, half, angle, vary(half, 1 - half), vary(half, 1 - half))


def _has_room(tried: Placed, placed: list[Placed], size: int) -> bool:
    left, top, right, bottom = extent(tried.outlines, size)
    if min(left, top) < 0 or max(right, bottom) > size:
        return False
    others = (extent(other.outlines, size) for other in placed)
    return all(
        right <= o_left or o_right <= left or bottom <= o_top or o_bottom <= top
        for o_left, o_top, o_right, o_bottom in others
    )
