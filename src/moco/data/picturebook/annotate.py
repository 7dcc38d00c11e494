"""What transfer learning needs beside the picture, from the same drawing: boxes, masks, keypoints, part maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moco.data.picturebook.book import check, classes_of, pages
from moco.data.picturebook.names import NUM_KEYPOINTS
from moco.data.picturebook.outline import Point
from moco.data.picturebook.render import part_map

VISIBLE = 2  # as in COCO
OUTSIDE = 0


@dataclass(frozen=True)
class AnnotatedBook:
    """Pictures of one object each, with what is known of it. Pixel i covers [i, i + 1) on its axis.

    Attributes:
        images: (N, size, size, 3) uint8, RGB.
        labels: (N,) int64, indices into CLASSES.
        boxes: (N, 4) float32, pixels: left, top, right, bottom edge of what is seen of the object.
        masks: (N, size, size) uint8, 1 where the object is seen.
        keypoints: (N, 5, 3) float32: x and y in pixels and visibility, 2 if seen; 0, with x = y = 0, if outside the
            frame. Names and order in KEYPOINTS.
        part_maps: (N, size, size) uint8: the part seen, numbered as in PART_IDS; 0 where no object is.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    keypoints: np.ndarray
    part_maps: np.ndarray

    def __len__(self) -> int:
        """Number of pictures, N."""
        return len(self.labels)


def draw_annotated(num_images: int, *, seed: int, size: int = 64) -> AnnotatedBook:
    """The pictures and labels of `draw_book`, and their annotations.

    Args:
        num_images: at least 1.
        seed: 0 to 2**63 - 1.
        size: pixels on each side, at least 16.

    Raises:
        DataError: a number out of range.
    """
    check(num_images, seed, size)
    labels = classes_of(num_images, seed)
    images = np.empty((num_images, size, size, 3), dtype=np.uint8)
    boxes = np.empty((num_images, 4), dtype=np.float32)
    keypoints = np.empty((num_images, NUM_KEYPOINTS, 3), dtype=np.float32)
    part_maps = np.empty((num_images, size, size), dtype=np.uint8)
    for index, (scene, picture) in enumerate(pages(labels, seed, size)):
        images[index] = picture
        part_maps[index] = part_map(scene, size)
        boxes[index] = _tight_box(part_maps[index])
        keypoints[index] = _in_frame(scene.keypoints, size)
    masks = (part_maps > 0).astype(np.uint8)
    return AnnotatedBook(images, labels, boxes, masks, keypoints, part_maps)


def _tight_box(parts: np.ndarray) -> tuple[int, int, int, int]:
    """Edges of the smallest box around all pixels above 0; poses leave some of the object in every frame."""
    rows, columns = np.flatnonzero(parts.any(axis=1)), np.flatnonzero(parts.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _in_frame(points: list[Point], size: int) -> list[tuple[float, float, int]]:
    return [(x * size, y * size, VISIBLE) if 0 <= x < 1 and 0 <= y < 1 else (0.0, 0.0, OUTSIDE) for x, y in points]
