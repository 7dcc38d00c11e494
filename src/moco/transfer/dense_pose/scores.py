"""How well surfaces are found: GPS AP by geodesic distances, and what can be said without them.

M: answers   T: persons of an image   P: points of a person
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from moco.transfer.annotations import AnnotatedImage, Annotations, Instance, Surface
from moco.transfer.annotations.masks import evaluator
from moco.transfer.dense_pose.geodesic import Geodesics
from moco.transfer.detection.average_precision import Found, average_precision, precision_by_similarity
from moco.transfer.networks.dense_head import read_surface

MATCHED = 0.5  # overlap of boxes from which an answer is a person's
UNJUDGED = 0.8  # overlap with a person without points from which an answer is left out, as in detectron2's evaluation


class SurfaceScores:
    """Figures of all images, gathered one by one, as a surface takes 1 MB.

    Args:
        truth: annotations of one category.
        geodesics: for GPS AP; None leaves it out.
    """

    def __init__(self, truth: Annotations, geodesics: Geodesics | None = None) -> None:
        self.truth, self.geodesics = truth, geodesics
        self._found: list[Found] = []
        self._similarities: list[np.ndarray] = []
        self._persons = self._matched = self._points = self._right = self._seen = 0
        self._apart = 0.0

    def add(self, found: Found, surfaces: Tensor) -> None:
        """The answers of the next image: M boxes, and surfaces (M, 77, S, S) over them."""
        image = self.truth.images[len(self._found)]
        overlaps = box_overlaps(found, image)
        self._found.append(found)
        said = {
            column: read_points(found, surfaces, each.surface)
            for column, each in enumerate(image.instances)
            if each.surface is not None and not each.crowd
        }
        self._count(image, matches(overlaps, found.scores, list(said)), said)
        if self.geodesics is not None:
            self._similarities.append(self._compared(image, overlaps, said))

    def figures(self) -> dict[str, float]:
        """In percent; what no person could show is left out.

        GPS_AP, GPS_AP50, ...: with geodesic distances alone.
        part_accuracy: points whose part is right, of all annotated points; a person that is not found has none right.
        persons_found: annotated persons with an answer whose box overlaps theirs by 0.5.
        part_accuracy_matched: as part_accuracy, of the points of these persons.
        uv_error_matched: mean distance on the chart, whose side is 100, of their points with the right part.
        box_AP, ...: of the boxes.
        """
        figures: dict[str, float] = {}
        if self.geodesics is not None:
            figures |= {f"GPS_{name}": value for name, value in self._by_similarity().items() if "/" not in name}
        shares = {
            "part_accuracy": (self._right, self._points),
            "persons_found": (self._matched, self._persons),
            "part_accuracy_matched": (self._right, self._seen),
            "uv_error_matched": (self._apart, self._right),
        }
        figures |= {name: 100 * part / whole for name, (part, whole) in shares.items() if whole}
        boxes = average_precision(self.truth, self._found, "bbox")
        return figures | {f"box_{name}": value for name, value in boxes.items() if "/" not in name}

    def _count(
        self, image: AnnotatedImage, matched: dict[int, int], said: dict[int, tuple[np.ndarray, np.ndarray]]
    ) -> None:
        for column, (parts, uv) in said.items():
            surface = image.instances[column].surface
            assert surface is not None
            self._persons += 1
            self._points += len(surface.parts)
            if column not in matched:
                continue
            row = matched[column]
            right = parts[row] == surface.parts
            self._matched += 1
            self._seen += len(surface.parts)
            self._right += int(right.sum())
            self._apart += float(np.linalg.norm(uv[row][right] - surface.uv[right], axis=1).sum())

    def _compared(
        self, image: AnnotatedImage, overlaps: np.ndarray, said: dict[int, tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Geodesic point similarity of each answer with each person (M, T); with one that has no points 1 where their
        boxes overlap enough.
        """
        assert self.geodesics is not None
        similar = (overlaps >= UNJUDGED).astype(np.float64)
        for column, (parts, uv) in said.items():
            surface = image.instances[column].surface
            assert surface is not None
            truth = self.geodesics.nearest(surface.parts, surface.uv)
            vertices = self.geodesics.nearest(parts.reshape(-1), uv.reshape(-1, 2)).reshape(parts.shape)
            similar[:, column] = [self.geodesics.similarity(truth, each) for each in vertices]
        return similar

    def _by_similarity(self) -> dict[str, float]:
        """AP by similarity, of the images with an annotated person; the others have nothing that could be judged."""
        kept = [number for number, image in enumerate(self.truth.images) if any(map(_is_judged, image.instances))]
        images = [_unjudged_as_crowds(self.truth.images[number]) for number in kept]
        truth = dataclasses.replace(self.truth, images=tuple(images))
        similarities = [self._similarities[number] for number in kept]
        return precision_by_similarity(truth, [self._found[number] for number in kept], similarities)


def read_points(found: Found, surfaces: Tensor, truth: Surface) -> tuple[np.ndarray, np.ndarray]:
    """What each answer says at a person's points: parts (M, P), 0 for background and outside its box, and uv (M, P, 2).

    Args:
        found: boxes of the M answers.
        surfaces: (M, 77, S, S), over these boxes.
        truth: the person's points.
    """
    corners, extents = found.boxes[:, None, :2], found.boxes[:, None, 2:] - found.boxes[:, None, :2]
    places = ((truth.points[None] - corners) / np.maximum(extents, 1e-6)).astype(np.float32)
    parts, uv = read_surface(surfaces, torch.from_numpy(places).to(surfaces.device))
    return parts.cpu().numpy(), uv.cpu().numpy()


def matches(overlaps: np.ndarray, scores: np.ndarray, columns: list[int]) -> dict[int, int]:
    """For each of these persons its answer, where there is one: by falling score each answer takes the person that its
    box overlaps most, by at least 0.5, among those that are left; column -> row.
    """
    taken: dict[int, int] = {}
    for row in np.argsort(-scores, kind="stable").tolist():
        left = [column for column in columns if column not in taken and overlaps[row, column] >= MATCHED]
        if left:
            taken[max(left, key=lambda column: float(overlaps[row, column]))] = row
    return taken


def box_overlaps(found: Found, image: AnnotatedImage) -> np.ndarray:
    """Intersection over union of answers' and persons' boxes (M, T); over the answer's area where it is a crowd."""
    if not len(found.boxes) or not image.instances:
        return np.zeros((len(found.boxes), len(image.instances)))
    said, known = ([_as_coco(box) for box in boxes] for boxes in (found.boxes, [each.box for each in image.instances]))
    crowds = [int(each.crowd) for each in image.instances]
    return np.asarray(evaluator("core.mask").iou(said, known, crowds))


def _as_coco(box: np.ndarray | tuple[float, ...]) -> list[float]:
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]


def _is_judged(instance: Instance) -> bool:
    return instance.surface is not None and not instance.crowd


def _unjudged_as_crowds(image: AnnotatedImage) -> AnnotatedImage:
    persons = tuple(dataclasses.replace(each, crowd=not _is_judged(each)) for each in image.instances)
    return dataclasses.replace(image, instances=persons)
