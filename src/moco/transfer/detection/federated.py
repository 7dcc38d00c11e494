"""LVIS: average precision where each image is annotated for some categories only (Gupta et al., 1908.03195).

An image counts for a category if it shows an object of it, or if the file states that it shows none (negative). Where
the file says that not all objects of a category are annotated (not exhaustive), what is found beyond them is no error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moco.errors import DataError
from moco.transfer.annotations import Annotations
from moco.transfer.annotations.masks import evaluator
from moco.transfer.detection.average_precision import OVERLAPS, SIZES, Found, coco_answers, coco_truth

DETECTIONS = 300  # of an image, those with the highest scores
FREQUENCIES = {"APr": "r", "APc": "c", "APf": "f"}  # categories in 1 to 10, 11 to 100 and more train images
_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclasses.dataclass(frozen=True)
class Federation:
    """What an LVIS file says beyond a COCO file; categories count from 1, as in `Annotations`.

    Attributes:
        frequencies: r, c or f for each category.
        negative: categories of which each image shows no object.
        not_exhaustive: categories of which each image shows more objects than are annotated.
    """

    frequencies: tuple[str, ...]
    negative: tuple[frozenset[int], ...]
    not_exhaustive: tuple[frozenset[int], ...]


def read_federation(path: str | Path) -> Federation:
    """Of an LVIS file, images and categories in the order of `open_annotations`.

    Raises:
        DataError: the file lacks a frequency or a list of categories.
    """
    content = json.loads(Path(path).expanduser().read_bytes())
    categories = sorted(content["categories"], key=lambda entry: int(entry["id"]))
    without = [entry for entry in categories if entry.get("frequency") not in FREQUENCIES.values()]
    if without:
        raise DataError(f"{path}: category {without[0].get('name')} has no frequency r, c or f: need an LVIS file")
    numbers = {entry["id"]: number for number, entry in enumerate(categories, start=1)}
    for name in _LISTS:
        lacking = [entry for entry in content["images"] if not set(entry.get(name, "?")) <= numbers.keys()]
        if lacking:
            raise DataError(
                f"{path}: image {lacking[0].get('id')} has no {name} of known categories: need an LVIS file"
            )
    negative, not_exhaustive = (
        tuple(frozenset(numbers[category] for category in entry[name]) for entry in content["images"])
        for name in _LISTS
    )
    return Federation(tuple(entry["frequency"] for entry in categories), negative, not_exhaustive)


def federated_precision(
    truth: Annotations, federation: Federation, found: Sequence[Found], kind: Literal["bbox", "segm"]
) -> dict[str, float]:
    """AP over overlaps of 0.5 to 0.95, AP50, AP75, by size, APr, APc and APf by frequency, and AP/CLASS, in percent.

    Figures that no category or object could show are left out; the 300 answers with the highest scores count.

    Raises:
        ConfigError: faster-coco-eval is not installed.
    """
    assert len(found) == len(truth.images) == len(federation.negative)
    result = _evaluated(truth, federation, found, kind)
    precision = result.eval["precision"][..., -1]  # (overlap, recall, category, size)
    labels, overlaps = result.params.areaRngLbl, np.round(result.params.iouThrs, 2)
    figures = {}
    for name, overlap in OVERLAPS.items():
        figures[name] = _mean(precision if overlap is None else precision[overlaps == overlap], 0)
    figures |= {name: _mean(precision, labels.index(label)) for name, label in SIZES.items()}
    for name, frequency in FREQUENCIES.items():
        of = [index for index, own in enumerate(federation.frequencies) if own == frequency]
        figures[name] = _mean(precision[:, :, of], 0)
    figures |= {f"AP/{name}": _mean(precision[:, :, [index]], 0) for index, name in enumerate(truth.categories)}
    return {name: value for name, value in figures.items() if value is not None}


def _mean(precision: np.ndarray, size: int) -> float | None:
    valid = precision[..., size][precision[..., size] > -1]
    return 100 * float(valid.mean()) if len(valid) else None


def _evaluated(truth: Annotations, federation: Federation, found: Sequence[Found], kind: Any) -> Any:
    """The library's evaluation in its LVIS form, accumulated."""
    library, content = evaluator(), coco_truth(truth, kind)
    for category, frequency in zip(content["categories"], federation.frequencies, strict=True):
        category["frequency"] = frequency
    lists = zip(content["images"], federation.negative, federation.not_exhaustive, strict=True)
    for image, negative, not_exhaustive in lists:
        image |= dict(zip(_LISTS, (sorted(negative), sorted(not_exhaustive)), strict=True))
    kept = [_best(each) for each in found]
    answers = [answer for number, each in enumerate(kept, start=1) for answer in coco_answers(number, each, kind)]
    with contextlib.redirect_stdout(io.StringIO()):
        given = library.COCO(content)
        said = given.loadRes(answers) if answers else library.COCO({**content, "annotations": []})
        result = library.COCOeval_faster(given, said, kind, lvis_style=True)
        result.params.maxDets = [DETECTIONS]
        result.evaluate()
        result.accumulate()
    return result


def _best(found: Found) -> Found:
    """The 300 answers with the highest scores."""
    order = np.argsort(-found.scores, kind="stable")[:DETECTIONS]
    runs = None if found.runs is None else [found.runs[index] for index in order]
    return Found(found.boxes[order], found.labels[order], found.scores[order], runs)
