"""From a model, images and settings to a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from moco.errors import ArchitectureError, ConfigError
from moco.evaluation.figures import Answers
from moco.evaluation.label_free import read_images, score
from moco.evaluation.network import Model, networks
from moco.evaluation.protocols import Protocols
from moco.evaluation.report import SHOWN, Difference, Report
from moco.evaluation.settings import Settings
from moco.evaluation.task import Sources, Task, make_task


def measure(model: Model, sources: Sources, settings: Settings) -> Report:
    """Measure a model and its baselines; see `moco.evaluate`."""
    start, device = time.perf_counter(), _usable(settings.device)
    if settings.protocol == "scores":
        return _label_free(model, sources, settings, device, start)
    task = make_task(sources, settings, image_size=model.preprocess.size, resize=model.preprocess.resize)
    protocols = Protocols(settings, task, model, device)
    found, notes = networks(model, settings)
    if settings.protocol == "finetune" and model.trained:
        found = [network for network in found if network.label != "random_init"]
    ask = getattr(protocols, settings.protocol)
    answers = [
        _shown(answer, task, quiet=settings.quiet)
        for each in (*(ask(network) for network in found), protocols.pixels())
        for answer in each
    ]
    if settings.baselines == "auto" and settings.protocol != "finetune":
        notes.append("training from scratch left out, as it takes minutes: --baselines all does it")
    try:
        answers += protocols.from_scratch()
    except ArchitectureError as error:
        notes.append(f"training from scratch left out: {error}")
    rows = tuple(answer.row(task.test.targets) for answer in answers)
    differences = tuple(_differences(answers, task))
    notes = [*model.notes, *task.notes, *notes]
    seconds = time.perf_counter() - start
    return Report(_network(model), _data(task), settings.stated(), rows, differences, tuple(notes), seconds)


def _label_free(model: Model, sources: Sources, settings: Settings, device: str, start: float) -> Report:
    source = sources[1] or sources[0]
    images = read_images(source, settings, size=model.preprocess.size, resize=model.preprocess.resize)
    found, notes = networks(model, settings)
    rows = tuple(row for network in found for row in score(model, images, network, settings, device))
    data = {"test": source.name, "test_images": len(images), "train": None, "train_images": None, "classes": None}
    notes = [*model.notes, *notes]
    return Report(_network(model), data, settings.stated(), rows, (), tuple(notes), time.perf_counter() - start)


def _differences(answers: list[Answers], task: Task) -> Iterator[Difference]:
    """The run's answers beside those of its baselines to the same question, or trained from scratch."""
    for run in answers:
        if run.network != "run" or run.inputs == "embeddings":
            continue
        for other in answers:
            same = (other.measure, other.inputs) == (run.measure, run.inputs) or (
                other.network == "from_scratch" or (other.network == "pixels" and other.measure == run.measure)
            )
            if same and other.network != "run" and other.label_fraction == run.label_fraction:
                yield run.less(other, task.test.targets)


def _shown(answer: Answers, task: Task, *, quiet: bool) -> Answers:
    """Print the figure as soon as there is one; others may take minutes more."""
    if not quiet:
        row = answer.row(task.test.targets)
        part = "" if row.label_fraction == 1 else f", {row.label_fraction:.0%} of the labels"
        print(
            f"{SHOWN.get(row.network, row.network)}, {row.inputs}{part}: {row.measure} {row.mean:.1%}", file=sys.stderr
        )
    return answer


def _usable(device: str) -> str:
    """The device's name, with "auto" resolved.

    Raises:
        ConfigError: no such device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={device!r} cannot be used ({reason}): try 'cpu' or 'auto'") from error
    return name


def _network(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "architecture": model.backbone.architecture,
        "stem": model.backbone.stem,
        "feature_dim": model.backbone.feature_dim,
        "image_size": model.preprocess.size,
        "trained": model.trained,
    }


def _data(task: Task) -> dict[str, Any]:
    return {
        "train": task.train.source.name,
        "train_images": len(task.train),
        "test": task.test.source.name,
        "test_images": len(task.test),
        "held_out": task.held_out,
        "classes": len(task.class_names),
        "multilabel": task.multilabel,
        "leaked": len(task.leaked),
        "leaked_images": [list(pair) for pair in task.leaked],
        "skipped": task.skipped.count,
    }
