"""Small grids for the tests: a few images in a file, options of a run that takes a second, figures made by hand."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moco.sweep import grid as grid_module
from moco.sweep.folder import GridFolder, write_json
from moco.sweep.plan import Plan, Planned, make_plan
from moco.sweep.settings import Settings, make

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
    "workers": 0,
}


def images(folder: Path, *, train: int = 40, test: int = 20) -> Path:
    """A .npz file of two classes, bright and dark."""
    labels = np.arange(train + test) % 2
    pixels = np.random.default_rng(0).integers(0, 120, (train + test, 16, 16, 3)) + 100 * labels[:, None, None, None]
    pixels = pixels.astype(np.uint8)
    path = folder / "images.npz"
    parts = {"x_train": pixels[:train], "x_test": pixels[train:], "y_train": labels[:train], "y_test": labels[train:]}
    np.savez(path, **parts)
    return path


def settings(study: str | None = "momentum", data: Any = None, **options: Any) -> Settings:
    """As `moco.ablate` makes them, for the recipe cifar in small."""
    own = set(options.get("vary", ())) | ({"dictionary_size"} if study in ("queue", "mechanism") else set())
    small = {name: value for name, value in TINY.items() if name not in own}
    usual = {"out": "unused", "recipe": "cifar", "options": small, "values": None, "vary": None, "seeds": (0,)}
    return make(study, data, **{**usual, **options})


def plan(study: str | None = "momentum", count: int = 40, **options: Any) -> Plan:
    """The runs of these settings on so many images."""
    return make_plan(settings(study, **options), count)


def put(folder: GridFolder, run: Planned, **figures: float) -> None:
    """Leave a finished run's figures where the grid looks for them."""
    usual = {"knn_top1": 0.5, "loss": 3.0, "pretext_accuracy": 0.25, "training_seconds": 60.0, "images": 40}
    folder.run(run.name).mkdir(parents=True)
    summary = {"finished": True, "steps": run.steps, **usual, **figures}
    write_json(folder.run(run.name) / "summary.json", summary)
    write_json(folder.run(run.name) / "probe.json", {"linear_top1": 0.6})


@pytest.fixture
def here(monkeypatch):
    """Jobs are carried out in this process; the folders of the runs that were started, pilots left out."""
    return carry_out_here(monkeypatch)


def carry_out_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the fixture `here` does."""
    started: list[str] = []

    def submit(function, *arguments):
        if function.__name__ == "carry_out":
            started.append(arguments[0].folder.name)
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    monkeypatch.setattr(grid_module, "launcher", lambda settings: submit)
    monkeypatch.setattr(grid_module, "start_here", submit)
    return started
