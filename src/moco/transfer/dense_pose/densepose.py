"""Dense pose as a task: persons, and for their pixels the place on the body's surface (Güler et al., 1802.00434)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from moco.errors import DataError
from moco.transfer.annotations import Annotations
from moco.transfer.dense_pose.geodesic import SPREAD, Geodesics
from moco.transfer.dense_pose.scores import SurfaceScores
from moco.transfer.detection.detection import Detection
from moco.transfer.detection.images import Batch

_DRAWN = 4  # images in a picture


class DensePose:
    """DensePose R-CNN on DensePose-COCO's annotations; see `moco.transfer.fine_tuning.task.Task`.

    Args:
        people: the detection of persons, made with the name densepose.
        geodesics: distances over the body's surface, for the average precision of the data set; None where the user
            has none.

    Raises:
        DataError: files of other than one category, or without a person whose surface is annotated.
    """

    name = "densepose"

    def __init__(self, people: Detection, geodesics: Geodesics | None = None) -> None:
        for part in (people.train, people.test):
            _check(part)
        self.people, self.geodesics, self.batch_size = people, geodesics, people.batch_size
        self.main_score = "part_accuracy" if geodesics is None else "GPS_AP"
        counts = [f"{_annotated(part)} of {_persons(part)}" for part in (people.train, people.test)]
        self.notes = [*people.notes, f"persons with an annotated surface: {counts[0]} in train, {counts[1]} in test"]
        if geodesics is None:
            self.notes.append("without geodesic distances no GPS AP, the data set's measure: see --geodesics")

    def model(self, backbone: nn.Module) -> nn.Module:
        """Faster R-CNN with the surface head around the backbone."""
        return self.people.model(backbone)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum of the losses of the region proposals, the boxes and the surfaces."""
        return self.people.loss(model, batch)

    def batches(self, *, seed: int, start: int) -> Iterator[Batch]:
        """As in detection, but no image is mirrored."""
        return self.people.batches(seed=seed, start=start)

    def score(self, model: nn.Module) -> dict[str, float]:
        """GPS_AP where there are distances; part_accuracy and others of `SurfaceScores`; AP of the boxes as box_AP."""
        scores = SurfaceScores(self.people.test, self.geodesics)
        for found, answer in self.people.each_answer(model, self.people.test):
            scores.add(found, answer["surface"])
        return scores.figures()

    def picture(self, models: dict[str, nn.Module], file: Path) -> None:
        """Annotated points on some test images, and the parts that each model sees there."""
        from moco.transfer.dense_pose.picture import draw_surfaces

        annotated = [image for image in self.people.test.images if any(each.surface for each in image.instances)]
        images = tuple(annotated[:: max(1, len(annotated) // _DRAWN)][:_DRAWN])
        chosen = dataclasses.replace(self.people.test, images=images)
        draw_surfaces(chosen, {label: self.people.each_answer(model, chosen) for label, model in models.items()}, file)

    def settings(self) -> dict[str, Any]:
        """Those of detection, and what geodesic distances were used."""
        given = self.geodesics
        used = None if given is None else {"source": given.source, "vertices": len(given.parts), "spread": SPREAD}
        return {**self.people.settings(), "geodesics": used}


def _check(annotations: Annotations) -> None:
    if len(annotations.categories) != 1:
        raise DataError(
            f"{annotations.source} has {len(annotations.categories)} categories: densepose needs persons alone"
        )
    if not _annotated(annotations):
        raise DataError(
            f"{annotations.source} has no person whose surface is annotated "
            "(dp_x, dp_y, dp_I, dp_U, dp_V, dp_masks): need a DensePose-COCO file"
        )


def _persons(annotations: Annotations) -> int:
    return sum(not each.crowd for image in annotations.images for each in image.instances)


def _annotated(annotations: Annotations) -> int:
    return sum(each.surface is not None and not each.crowd for image in annotations.images for each in image.instances)
