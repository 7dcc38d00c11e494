"""LVIS as a task: instance segmentation with rare images repeated, and tested as federated annotations allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from moco.contrast.collective import rank, world_size
from moco.data.workers import make_loader
from moco.errors import DataError
from moco.transfer.detection.detection import Detection
from moco.transfer.detection.federated import DETECTIONS, Federation, federated_precision
from moco.transfer.detection.images import Batch, TrainImages, collated
from moco.transfer.detection.repeat_factor import THRESHOLD, RepeatedOrder, repeat_factors

LEAST_SCORE = 1e-4  # of an answer that is kept, detectron2 configs/LVISv0.5-InstanceSegmentation


class Lvis:
    """Mask R-CNN on long-tailed annotations; see `moco.transfer.fine_tuning.task.Task`.

    Args:
        segmentation: instance segmentation on the same files, with 300 detections an image.
        federation: what the test file says beyond a COCO file.

    Raises:
        DataError: train and test files with other categories, or a federation of other images.
    """

    name = "lvis"
    main_score = "AP"

    def __init__(self, segmentation: Detection, federation: Federation) -> None:
        train, test = segmentation.train, segmentation.test
        if len(federation.frequencies) != len(train.categories) or len(federation.negative) != len(test.images):
            raise DataError(
                f"{test.source} has {len(federation.frequencies)} categories, {train.source} {len(train.categories)}: "
                "expected LVIS files of one version"
            )
        self.segmentation, self.federation, self.batch_size = segmentation, federation, segmentation.batch_size
        self.factors = repeat_factors([[each.category for each in image.instances] for image in train.images])
        repeated = int((self.factors > 1).sum())
        self.notes = [
            *segmentation.notes,
            f"{repeated} of {len(self.factors)} train images are repeated for their "
            f"rare categories, {self.factors.max():.1f} times at most",
        ]

    def model(self, backbone: nn.Module) -> nn.Module:
        """Mask R-CNN around the backbone, which keeps answers of low scores too."""
        model: Any = self.segmentation.model(backbone)
        assert self.segmentation.detector.detections == DETECTIONS
        model.roi_heads.score_thresh = LEAST_SCORE
        return model  # type: ignore[no-any-return]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """As in instance segmentation."""
        return self.segmentation.loss(model, batch)

    def batches(self, *, seed: int, start: int) -> Iterator[Batch]:
        """Images as often as their rarest category asks for, each at a random size, half of them mirrored."""
        detection = self.segmentation
        share = {"rank": rank(), "world_size": world_size()}
        order = RepeatedOrder(self.factors, batch_size=self.batch_size, seed=seed, **share)
        order.first_step = start
        images = TrainImages(detection.train.images, detection.reading, detection.sides, seed=seed)
        return iter(make_loader(images, order, workers=detection.workers, collate_fn=collated))

    def score(self, model: nn.Module) -> dict[str, float]:
        """AP of masks over overlaps, by size, frequency (APr, APc, APf) and class; the boxes' as box_AP."""
        truth = self.segmentation.test
        found = self.segmentation.answers(model, truth)
        figures = federated_precision(truth, self.federation, found, "segm")
        boxes = federated_precision(truth, self.federation, found, "bbox")
        return figures | {f"box_{name}": value for name, value in boxes.items() if "/" not in name}

    def picture(self, models: dict[str, nn.Module], file: Path) -> None:
        """As in instance segmentation."""
        self.segmentation.picture(models, file)

    def settings(self) -> dict[str, Any]:
        """Those of instance segmentation, and how images are repeated."""
        return {**self.segmentation.settings(), "task": self.name, "repeat_threshold": THRESHOLD}
