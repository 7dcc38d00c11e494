"""Semantic segmentation from the options of `moco.transfer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moco.evaluation.network import Model
from moco.transfer.fine_tuning.scale import Scale
from moco.transfer.label_maps.reading import open_label_maps
from moco.transfer.semantic.segmentation import SemanticSegmentation


def semantic_task(given: Mapping[str, Any], model: Model, scale: Scale, *, workers: int) -> SemanticSegmentation:
    """The task with crops of the scale's side; images go in as in pretraining."""
    void = given["void_index"]
    train = open_label_maps(given["train"], use="train", void=void)
    return SemanticSegmentation(
        train,
        open_label_maps(given["test"], use="test", void=void, like=train),
        crop=scale.sides[-1],
        batch_size=scale.schedule.batch_size,
        workers=workers,
        mean=model.preprocess.mean,
        std=model.preprocess.std,
    )
