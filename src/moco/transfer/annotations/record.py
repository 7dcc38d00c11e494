"""What an annotation file says, in one form for every format.

Coordinates are pixels from the image's upper left corner, as COCO has them: a box of one pixel there is 0, 0, 1, 1.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True)
class Surface:
    """What DensePose-COCO says of one person (Güler et al., 1802.00434): points of the body's surface, a silhouette.

    Attributes:
        points: (P, 2) float32, x and y in pixels of the image, P at least 1.
        parts: (P,) uint8, the chart of each point: 1 to 24.
        uv: (P, 2) float32, where each point lies on its chart, 0 to 1.
        frame: box that the silhouettes cover; the person's as the file states it, which may reach out of the image.
        silhouettes: run lengths of 256 by 256, one each body part that is seen; their union is the person.
    """

    points: np.ndarray
    parts: np.ndarray
    uv: np.ndarray
    frame: Box
    silhouettes: tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        box: left, top, right, bottom; inside the image, and of an area above 0.
        category: 1 to the number of categories; 0 is the background.
        crowd: neither learnt from nor counted when it is missed or found: COCO's crowds, VOC's difficult objects.
        area: in square pixels, by which figures tell small objects from large ones: the mask's where the file says so.
        outline: polygons, each (P, 2) float32; or COCO's run lengths, compressed; None where the file has none.
        keypoints: (K, 3) float32 of x, y and 0 not labelled, 1 hidden, 2 visible; None where the file has none.
        surface: points of the body's surface; None where the file has none.
    """

    box: Box
    category: int
    crowd: bool
    area: float
    outline: list[np.ndarray] | dict[str, Any] | None = None
    keypoints: np.ndarray | None = None
    surface: Surface | None = None


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """One image with its objects; none is an image of background alone."""

    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...]


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The keypoints of a category.

    Attributes:
        names: of the keypoints, in order.
        edges: pairs of indices that a picture joins.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]

    @property
    def mirrored(self) -> list[int]:
        """For each keypoint the one that it becomes in the mirrored image: left_eye becomes right_eye."""
        swapped = {"left": "right", "right": "left"}
        found = []
        for index, name in enumerate(self.names):
            other = "_".join(swapped.get(part, part) for part in name.split("_"))
            found.append(self.names.index(other) if other in self.names else index)
        return found


@dataclasses.dataclass(frozen=True)
class Annotations:
    """All of one file or folder.

    Attributes:
        source: as the user named it.
        images: in the order of the file.
        categories: names; an instance's category is 1 + the index.
        skeleton: of the category with keypoints; None where there is none.
        problems: what was left out or cut, one line each: file, object, what was wrong, what became of it.
        considered: objects that the file holds, those left out included.
    """

    source: str
    images: tuple[AnnotatedImage, ...]
    categories: tuple[str, ...]
    skeleton: Skeleton | None = None
    problems: tuple[str, ...] = ()
    considered: int = 0

    @property
    def remarks(self) -> list[str]:
        """What the reader should know before the start: bad annotations, counted and the first ones listed."""
        empty = sum(not image.instances for image in self.images)
        said = [f"{self.source}: {empty} of {len(self.images)} images hold no object: background"] if empty else []
        if self.problems:
            share = len(self.problems) / max(1, self.considered)
            said.append(
                f"{self.source}: {len(self.problems)} bad annotations, {share:.1%} of {self.considered}; they follow"
            )
            said += [f"  {line}" for line in self.problems[:SHOWN]]
            if len(self.problems) > SHOWN:
                said.append(f"  and {len(self.problems) - SHOWN} more: the JSON lists all")
        return said


SHOWN = 5  # bad annotations on the terminal
