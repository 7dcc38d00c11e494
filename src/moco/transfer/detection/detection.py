"""Object detection as a task: Faster R-CNN on boxes, and Mask, Keypoint and DensePose R-CNN, which add to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from moco.contrast.collective import rank, world_size
from moco.data.order import EpochOrder
from moco.data.workers import make_loader
from moco.errors import ConfigError, DataError
from moco.transfer.annotations import Annotations, same_categories
from moco.transfer.annotations.masks import evaluator, runs_of
from moco.transfer.detection.average_precision import Found, Kind, average_precision
from moco.transfer.detection.images import Batch, Reading, TestImages, TrainImages, collated
from moco.transfer.networks.c4 import c4_detector
from moco.transfer.networks.detector import DetectorSettings, fpn_detector

Name = Literal["detection", "instance-segmentation", "keypoints", "densepose"]
KINDS: dict[Name, Kind] = {
    "detection": "bbox",
    "instance-segmentation": "segm",
    "keypoints": "keypoints",
    "densepose": "bbox",  # its surfaces are measured by `moco.transfer.dense_pose.densepose`
}
MASK_THRESHOLD = 0.5  # of a mask's probability


class Detection:
    """Detection, instance segmentation or keypoints on annotated images; see `moco.transfer.fine_tuning.task.Task`.

    Args:
        name: which of them; of densepose it has the images, the model and the loss.
        train, test: annotations; the test's are matched to the train ones by the categories' names.
        detector: sizes of the model; categories, masks and keypoints are filled in here.
        sides: shorter sides of train images, of which each draws one.
        batch_size: images an iteration.
        workers: processes that read images; 0 reads them in this one.

    Raises:
        DataError: annotations without what the task learns, or categories that do not match.
        ConfigError: fewer train images than a batch has, or faster-coco-eval is missing.
    """

    main_score = "AP"

    def __init__(
        self,
        name: Name,
        train: Annotations,
        test: Annotations,
        *,
        detector: DetectorSettings,
        sides: Sequence[int],
        batch_size: int,
        workers: int = 0,
    ) -> None:
        evaluator()
        test, notes = same_categories(train, test)
        self.name, self.batch_size, self.sides, self.workers = name, batch_size, tuple(sides), workers
        self.notes = [*train.remarks, *test.remarks, *notes]
        masks, surface, points = name == "instance-segmentation", name == "densepose", 0
        if name == "keypoints":
            points = _points(train, test)
        mirrored = tuple(train.skeleton.mirrored) if points and train.skeleton else None
        self.reading = Reading(len(detector.mean), detector.longest, masks, mirrored, surface)
        for part in (train, test):
            _check_content(part, self.reading, name)
        self.train, self.test = train, test
        heads: dict[str, Any] = {"masks": masks, "keypoints": points, "surface": surface}
        self.detector = dataclasses.replace(detector, categories=len(train.categories), **heads)
        if len(train.images) < batch_size:
            raise ConfigError(f"batch_size={batch_size} of {len(train.images)} train images: need at least one batch")

    def model(self, backbone: nn.Module) -> nn.Module:
        """The detector around the backbone."""
        return {"fpn": fpn_detector, "c4": c4_detector}[self.detector.architecture](backbone, self.detector)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum of the losses of the region proposals and of the heads."""
        device = next(model.parameters()).device
        images = [image.to(device, non_blocking=True) for image in batch[0]]
        targets = [{name: value.to(device) for name, value in target.items()} for target in batch[1]]
        losses: dict[str, Tensor] = model(images, targets)
        return torch.stack(list(losses.values())).sum()

    def batches(self, *, seed: int, start: int) -> Iterator[Batch]:
        """Random orders of all images, one after the other, each image at a random size, half of them mirrored."""
        share = {"rank": rank(), "world_size": world_size()}
        order = EpochOrder(np.arange(len(self.train.images)), batch_size=self.batch_size, seed=seed, **share)
        order.first_step = start
        images = TrainImages(self.train.images, self.reading, self.sides, seed=seed)
        return iter(make_loader(images, order, workers=self.workers, collate_fn=collated))

    def answers(self, model: nn.Module, annotations: Annotations) -> list[Found]:
        """What the model says of each image, in the image's own pixels."""
        return [found for found, _ in self.each_answer(model, annotations)]

    @torch.no_grad()
    def each_answer(self, model: nn.Module, annotations: Annotations) -> Iterator[tuple[Found, dict[str, Tensor]]]:
        """Image by image, beside what the model itself says."""
        model.eval()
        device = next(model.parameters()).device
        data = TestImages(annotations.images, self.reading, self.detector.side)
        size, count = self.batch_size, len(annotations.images)
        chunks = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
        for batch in make_loader(data, chunks, workers=self.workers, collate_fn=list):
            for (index, pixels), each in zip(batch, model([pixels.to(device) for _, pixels in batch]), strict=True):
                image = annotations.images[index]
                yield _in_pixels(each, pixels.shape[1:], (image.height, image.width)), each

    def score(self, model: nn.Module) -> dict[str, float]:
        """AP over overlaps, at 0.5 and 0.75, by size and class; beside masks and keypoints, the boxes' as box_AP."""
        found = self.answers(model, self.test)
        figures = average_precision(self.test, found, KINDS[self.name])
        if self.name != "detection":
            boxes = average_precision(self.test, found, "bbox")
            figures |= {f"box_{name}": value for name, value in boxes.items() if "/" not in name}
        return figures

    def picture(self, models: dict[str, nn.Module], file: Path) -> None:
        """The truth and each model's answers on some test images."""
        from moco.transfer.detection.picture import draw_answers

        chosen = dataclasses.replace(self.test, images=self.test.images[:: max(1, len(self.test.images) // 4)][:4])
        answers = {label: self.answers(model, chosen) for label, model in models.items()}
        draw_answers(chosen, answers, KINDS[self.name], file)

    def settings(self) -> dict[str, Any]:
        """The detector, the images and the data."""
        return {
            "task": self.name,
            "detector": dataclasses.asdict(self.detector),
            "sides": list(self.sides),
            "batch_size": self.batch_size,
            "train": {"source": self.train.source, **_counts(self.train)},
            "test": {"source": self.test.source, **_counts(self.test)},
            "categories": list(self.train.categories),
        }


def _counts(annotations: Annotations) -> dict[str, Any]:
    objects = sum(len(image.instances) for image in annotations.images)
    return {"images": len(annotations.images), "objects": objects, "bad_annotations": list(annotations.problems)}


def _points(train: Annotations, test: Annotations) -> int:
    for part in (train, test):
        if part.skeleton is None:
            raise DataError(f"{part.source} names no keypoints in its categories: need a COCO keypoint file")
    return len(train.skeleton.names) if train.skeleton else 0


def _check_content(annotations: Annotations, reading: Reading, name: str) -> None:
    if not any(reading.learnable(instance) for image in annotations.images for instance in image.instances):
        what = {"instance-segmentation": "outlines (polygons or run lengths)", "keypoints": "labelled keypoints"}
        raise DataError(f"{annotations.source} has no object with {what.get(name, 'a box that counts')}")


def _in_pixels(answer: dict[str, Tensor], size: Sequence[int], shape: tuple[int, int]) -> Found:
    """A model's answer on an image of `size`, as one on the image of `shape`."""
    scale = torch.tensor([shape[1] / size[1], shape[0] / size[0]])
    boxes = answer["boxes"].cpu() * scale.repeat(2)
    runs = points = None
    if "masks" in answer:
        runs = [runs_of(mask) for mask in _resized(answer["masks"].cpu(), shape)]
    if "keypoints" in answer:
        points = answer["keypoints"].cpu().numpy().copy()
        points[..., :2] *= scale.numpy()
    return Found(boxes.numpy(), answer["labels"].cpu().numpy(), answer["scores"].cpu().numpy(), runs, points)


def _resized(masks: Tensor, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Masks (M, 1, H, W) of probabilities as (H', W') of 0 and 1, one by one."""
    for mask in masks:
        whole = torch.nn.functional.interpolate(mask[None], shape, mode="bilinear", align_corners=False)
        yield (whole[0, 0] > MASK_THRESHOLD).numpy().astype(np.uint8)
