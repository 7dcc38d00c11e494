"""COCO's average precision of boxes, masks and keypoints, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from moco.errors import ConfigError
from moco.transfer.annotations import Annotations, Instance
from moco.transfer.annotations.masks import evaluator, plain_outline

Kind = Literal["bbox", "segm", "keypoints"]
OVERLAPS = {"AP": None, "AP50": 0.5, "AP75": 0.75}
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}  # below 32, to 96, above, squared, pixels of the image
DETECTIONS = 100  # of an image that count, those with the highest scores
COCO_PERSON = 17  # keypoints; their spreads are known, those of other skeletons are not
_OTHER_SPREAD = 0.05  # of any other keypoint, as a share of the object's size: between COCO's wrists and eyes


@dataclasses.dataclass(frozen=True)
class Found:
    """What a detector says of one image, in that image's own pixels.

    Attributes:
        boxes: (M, 4): left, top, right, bottom.
        labels: (M,), from 1.
        scores: (M,), 0 to 1.
        runs: run lengths of the masks, one each; None where there are none.
        keypoints: (M, K, 3); None where there are none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    runs: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None


def average_precision(truth: Annotations, found: Sequence[Found], kind: Kind) -> dict[str, float]:
    """AP over overlaps of 0.5 to 0.95, AP50, AP75, by size, and AP/CLASS, in percent; what no object could show is
    left out.

    Args:
        truth: the annotations of the images, with K categories.
        found: of each image, in the same order.
        kind: what overlaps: boxes, masks, or keypoints.

    Raises:
        ConfigError: faster-coco-eval is not installed.
    """
    assert len(found) == len(truth.images)
    sizes = {name: label for name, label in SIZES.items() if not (kind == "keypoints" and label == "small")}
    return figures_of(_evaluated(truth, found, kind), truth.categories, sizes)


def figures_of(result: Any, categories: Sequence[str], sizes: Mapping[str, str]) -> dict[str, float]:
    """AP, AP50, AP75, those by size, and AP/CLASS of the library's evaluation, in percent.

    Args:
        result: after `accumulate`.
        categories: names, in the order of their numbers.
        sizes: name of a figure -> the library's name of the size.
    """
    precision, last = result.eval["precision"], -1  # (overlap, recall, category, size, number of detections)
    labels, overlaps = result.params.areaRngLbl, np.round(result.params.iouThrs, 2)
    figures = {}
    for name, overlap in OVERLAPS.items():
        chosen = precision if overlap is None else precision[overlaps == overlap]
        figures[name] = _mean(chosen[:, :, :, 0, last])
    figures |= {name: _mean(precision[:, :, :, labels.index(label), last]) for name, label in sizes.items()}
    for index, number in enumerate(result.params.catIds):
        figures[f"AP/{categories[number - 1]}"] = _mean(precision[:, :, index, 0, last])
    return {name: value for name, value in figures.items() if value is not None}


def _mean(precision: np.ndarray) -> float | None:
    """In percent, of what there is; None where there is nothing."""
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if len(valid) else None


def precision_by_similarity(
    truth: Annotations, found: Sequence[Found], similarities: Sequence[np.ndarray]
) -> dict[str, float]:
    """As `average_precision`, with a similarity in the place of the overlap. Crowds are neither hit nor missed.

    Args:
        truth: annotations of one category.
        found: of each image, in the same order.
        similarities: of each image (M, T) from 0 to 1: of each answer with each annotated object.
    """
    assert len(truth.categories) == 1
    ordered = [
        np.ascontiguousarray(each[np.argsort(-answers.scores, kind="stable")[:DETECTIONS]], dtype=np.float64)
        for each, answers in zip(similarities, found, strict=True)
    ]
    sizes = {name: label for name, label in SIZES.items() if label != "small"}
    return figures_of(_evaluated(truth, found, "bbox", ordered), truth.categories, sizes)


def _evaluated(
    truth: Annotations, found: Sequence[Found], kind: Kind, overlaps: Sequence[np.ndarray] | None = None
) -> Any:
    """The library's evaluation, accumulated; `overlaps` of each image, answers by falling score, replace its own."""
    library, spreads = evaluator(), None
    if kind == "keypoints":
        if truth.skeleton is None:
            raise ConfigError(f"{truth.source} has no keypoints: use detection")
        count = len(truth.skeleton.names)
        spreads = None if count == COCO_PERSON else [_OTHER_SPREAD] * count
    with contextlib.redirect_stdout(io.StringIO()):
        given = library.COCO(coco_truth(truth, kind))
        answers = [coco_answers(number, each, kind) for number, each in enumerate(found, start=1)]
        flat = [answer for some in answers for answer in some]
        result = library.COCOeval_faster(
            given, given.loadRes(flat) if flat else library.COCO(_nothing(truth)), kind, kpt_oks_sigmas=spreads
        )
        if overlaps is not None:
            result.computeIoU = lambda image, category: overlaps[image - 1]
        result.evaluate()
        result.accumulate()
    return result


def coco_truth(truth: Annotations, kind: Kind = "bbox") -> dict[str, Any]:
    """The annotations as a COCO file's content; images are numbered from 1."""
    entries: list[dict[str, Any]] = []
    for number, image in enumerate(truth.images, start=1):
        for instance in image.instances:
            entry = _entry(instance, kind, len(truth.skeleton.names) if truth.skeleton else 0)
            if entry is not None:
                entries.append({"id": len(entries) + 1, "image_id": number, **entry})
    return {**_nothing(truth), "annotations": entries}


def _nothing(truth: Annotations) -> dict[str, Any]:
    images = [
        {"id": number, "height": image.height, "width": image.width}
        for number, image in enumerate(truth.images, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(truth.categories, start=1)]
    return {"images": images, "categories": categories, "annotations": []}


def _entry(instance: Instance, kind: Kind, keypoints: int) -> dict[str, Any] | None:
    left, top, right, bottom = instance.box
    entry = {
        "category_id": instance.category,
        "bbox": [left, top, right - left, bottom - top],
        "area": instance.area,
        "iscrowd": int(instance.crowd),
    }
    if kind == "segm":
        if instance.outline is None:
            return None
        entry["segmentation"] = plain_outline(instance.outline)
    if kind == "keypoints":
        points = np.zeros((keypoints, 3)) if instance.keypoints is None else instance.keypoints
        entry |= {"keypoints": points.reshape(-1).tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
    return entry


def coco_answers(number: int, found: Found, kind: Kind) -> list[dict[str, Any]]:
    """One image's answers as a COCO result file has them."""
    left, top, right, bottom = found.boxes.reshape(-1, 4).astype(np.float64).T
    boxes = np.stack([left, top, right - left, bottom - top], axis=1).tolist()
    answers: list[dict[str, Any]] = [
        {"image_id": number, "category_id": int(label), "score": float(score), "bbox": box}
        for box, label, score in zip(boxes, found.labels, found.scores, strict=True)
    ]
    for index, answer in enumerate(answers):
        if kind == "segm" and found.runs is not None:
            answer["segmentation"] = found.runs[index]
            del answer["bbox"]
        if kind == "keypoints" and found.keypoints is not None:
            answer["keypoints"] = found.keypoints[index].astype(np.float64).reshape(-1).tolist()
            del answer["bbox"]
    return answers
