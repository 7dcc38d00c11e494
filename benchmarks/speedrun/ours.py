"""What the entries of this package share: a run of `moco.pretrain` on the track's network and device."""

from __future__ import annotations

from typing import Any

from benchmarks.speedrun.task import Normalized, Task
from torch import nn

import moco


def pretrained(task: Task, *, recipe: str | None, **options: Any) -> nn.Module:
    """The backbone of a run by a recipe, or of one that fits itself (None)."""
    run = moco.pretrain(
        task.images,
        out=task.scratch / "run",
        recipe=recipe,
        backbone=task.backbone,
        image_size=task.image_size,
        epochs=task.epochs,
        seed=task.seed,
        accelerator="gpu" if task.device.type == "cuda" else "cpu",
        precision="bf16" if task.bf16 else "fp32",
        workers=task.workers,
        knn_evaluations=0,
        quiet=True,
        **options,
    )
    preprocess = run.backbone.preprocess
    return Normalized(run.backbone, preprocess.mean, preprocess.std)
