"""Small grids for the tests: a few images in a file, options of a run that takes a second, outcomes made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from moco.ablation.plan import Plan, Planned, make_plan
from moco.ablation.settings import Settings, make
from moco.ablation.store import Store

TINY: dict[str, Any] = {
    "backbone": "resnet_tiny",
    "image_size": 16,
    "batch_size": 8,
    "dictionary_size": 16,
    "embedding_dim": 8,
    "epochs": None,
    "steps": 6,
    "num_neighbors": 3,
    "knn_evaluations": 1,
    "log_every": 2,
    "split_groups": None,
    "precision": "fp32",
    "layout": "contiguous",
    "compile": "off",
    "threads": 1,
}


def images(folder: Path, *, train: int = 40, test: int = 20) -> Path:
    """A .npz file of two classes, bright and dark."""
    labels = np.arange(train + test) % 2
    pixels = np.random.default_rng(0).integers(0, 120, (train + test, 16, 16, 3)) + 100 * labels[:, None, None, None]
    path = folder / "images.npz"
    parts = {"x_train": pixels[:train], "x_test": pixels[train:]}
    np.savez(
        path,
        **{name: part.astype(np.uint8) for name, part in parts.items()},
        y_train=labels[:train],
        y_test=labels[train:],
    )
    return path


def settings(study: str | None = "momentum", data: Any = None, *, out: Any = "unused", **options: Any) -> Settings:
    """As `moco.ablate` makes them, for the recipe cifar in small."""
    own = set(options.get("vary", ())) | ({"dictionary_size"} if study in ("queue", "mechanism") else set())
    small = {name: value for name, value in TINY.items() if name not in own}
    return make(study, data, out=out, **{"recipe": "cifar", "options": small, **options})


def plan(study: str | None = "momentum", count: int = 40, **options: Any) -> Plan:
    """The runs of these settings on so many images."""
    return make_plan(settings(study, **options), count)


def finished(run: Planned, **figures: float) -> dict[str, Any]:
    """The outcome of a run that went well."""
    usual = {
        "knn_top1": 0.5,
        "linear_top1": 0.6,
        "loss": 3.0,
        "pretext_accuracy": 0.25,
        "images_per_second": 100.0,
        "training_seconds": 60.0,
    }
    return {"state": "finished", **usual, **figures, "configuration": {}}


def put(store: Store, name: str, outcome: dict[str, Any]) -> None:
    """Write an outcome where the store looks for it."""
    store.outcome_file(name).parent.mkdir(parents=True, exist_ok=True)
    store.outcome_file(name).write_text(json.dumps(outcome))
