"""From what the user named to a report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from moco.comparison.bench import Bench
from moco.comparison.contenders import contenders
from moco.comparison.figures import Answers, difference
from moco.comparison.label_free import MOST_IMAGES, score
from moco.comparison.protocols import Protocols
from moco.comparison.report import Difference, Report
from moco.comparison.settings import Settings
from moco.comparison.subject import Subject, open_subject
from moco.comparison.task import Task, make_task, open_sources, unlabelled_images
from moco.data.skipped import damaged_were
from moco.data.source import Source
from moco.errors import ConfigError

_NAMED = 3
# Options that the figures of a protocol depend on, beside the seeds.
_COUNTING = {
    "knn": ("num_neighbors", "knn_temperature", "search"),
    "linear": ("probe", "probe_epochs", "learning_rates"),
    "finetune": ("label_fractions",),
    "scores": (),
}


def assess(model: str | os.PathLike[str], settings: Settings) -> Report:
    """Measure a network and its baselines; see `moco.evaluate`."""
    start = time.perf_counter()
    bench = Bench.open(settings)
    sources = open_sources(settings)
    subject = open_subject(
        model,
        image_size=settings.image_size,
        data_size=_square_side(sources[0]),
        allow_factory=settings.allow_factory,
        seed=settings.seed,
    )
    if settings.protocol == "scores":
        return _label_free(bench, subject, sources, start)
    if sources[1] is not None and settings.held_out != Settings.held_out:
        raise ConfigError(
            f"held_out={settings.held_out} would change nothing: {sources[0].name} has test images of its own; "
            "leave it out"
        )
    task = make_task(sources, settings, image_size=subject.preprocess.size)
    protocols = Protocols(bench, subject, task)
    networks, notes = contenders(subject, settings)
    if settings.protocol == "finetune" and subject.trained:
        networks = [network for network in networks if network.network != "random_init"]
    ask = getattr(protocols, settings.protocol)
    answers = [answer for network in networks for answer in ask(network)]
    found, missing = _from_scratch(protocols, subject)
    answers += found
    rows = tuple(answer.row(task.test.targets) for answer in answers)
    differences = tuple(_differences(answers, task))
    notes = [*subject.notes, *_task_notes(task), *notes, *missing]
    return Report(
        _network(subject),
        _data(task),
        _counting(settings),
        rows,
        differences,
        tuple(notes),
        time.perf_counter() - start,
    )


def _label_free(bench: Bench, subject: Subject, sources: tuple[Source, Source | None], start: float) -> Report:
    settings = bench.settings
    source = sources[1] or sources[0]
    images = unlabelled_images(source, settings, image_size=subject.preprocess.size, maximum=MOST_IMAGES)
    networks, notes = contenders(subject, settings)
    rows = tuple(row for network in networks for row in score(bench, subject, images, network))
    data = {"test": source.name, "test_images": len(images), "train": None, "train_images": None, "classes": None}
    notes = [*subject.notes, *notes]
    return Report(_network(subject), data, _counting(settings), rows, (), tuple(notes), time.perf_counter() - start)


def _from_scratch(protocols: Protocols, subject: Subject) -> tuple[list[Answers], list[str]]:
    """Answers of the architecture trained from scratch, or why they are left out."""
    settings = protocols.bench.settings
    if settings.protocol == "finetune":
        wanted = subject.trained and settings.baselines != "none"
        return (list(protocols.scratch_at_fractions()) if wanted else []), []
    if settings.baselines in ("none", "random"):
        return [], []
    if settings.baselines == "auto":
        minutes = protocols.scratch_seconds() / 60
        if minutes > settings.scratch_minutes:
            return [], [
                f"training from scratch left out: it would take about {minutes:.0f} minutes, more than "
                f"scratch_minutes={settings.scratch_minutes:g} (--baselines all does it anyway, --epochs shortens it)"
            ]
    return list(protocols.scratch()), []


def _differences(answers: list[Answers], task: Task) -> Iterator[Difference]:
    """The run's answers beside those of its baselines to the same question, or trained from scratch."""
    for run in answers:
        if run.network != "run" or run.inputs == "embeddings":
            continue
        for other in answers:
            same = (other.measure, other.inputs) == (run.measure, run.inputs) or other.network == "from_scratch"
            if same and other.network != "run" and other.label_fraction == run.label_fraction:
                yield difference(run, other, task.test.targets)


def _task_notes(task: Task) -> Iterator[str]:
    yield from task.notes
    if task.leaked:
        named = ", ".join(f"{test} = {train}" for test, train in task.leaked[:_NAMED])
        yield f"{len(task.leaked)} of the test images are among the train images, byte for byte: {named}"
    if task.skipped.count:
        item, reason = task.skipped.items()[0]
        yield f"{damaged_were(task.skipped.count)} left out, the first {item}: {reason}"


def _network(subject: Subject) -> dict[str, Any]:
    backbone = subject.backbone
    return {
        "name": subject.name,
        "architecture": backbone.architecture,
        "stem": backbone.stem,
        "feature_dim": backbone.feature_dim,
        "image_size": subject.preprocess.size,
        "trained": subject.trained,
    }


def _data(task: Task) -> dict[str, Any]:
    return {
        "train": task.train.images.source.name,
        "train_images": len(task.train.images),
        "test": task.test.images.source.name,
        "test_images": len(task.test.images),
        "held_out": task.held_out,
        "classes": len(task.class_names),
        "multilabel": task.multilabel,
        "leaked": len(task.leaked),
        "leaked_images": [list(pair) for pair in task.leaked],
        "skipped": task.skipped.count,
    }


def _counting(settings: Settings) -> dict[str, Any]:
    names = ("protocol", *_COUNTING[settings.protocol], "baselines", "epochs", "seed", "seeds")
    stated = {name: getattr(settings, name) for name in names}
    return {name: list(value) if isinstance(value, tuple | list) else value for name, value in stated.items()}


def _square_side(source: Source) -> int | None:
    """Side of the images where all are squares of one size in an array."""
    array = source.uniform_array()
    return int(array.shape[1]) if array is not None and array.shape[1] == array.shape[2] else None
