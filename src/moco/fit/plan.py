"""A run with what nobody stated decided, its table, and what it will take."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moco.config import Config
from moco.errors import ConfigError
from moco.fit import budget as times
from moco.fit import rules
from moco.fit.facts import look
from moco.fit.inputs import Choice, Facts, Pace
from moco.fit.measure import Measured, evaluated, evaluation_bytes, measure
from moco.printable import duration, printable
from moco.recipes import configure
from moco.sizes import size_text
from moco.training.alive import doing
from moco.training.device import expected_device
from moco.training.images import RunImages, check_batch, open_images
from moco.training.memory import memory_bytes
from moco.training.pretrain import Pretraining
from moco.training.summary import Predicted

RECIPE = "auto"
MEASURING = 6.0  # seconds at most, and a tenth of the budget
SHORT_MEASURING = 3.0  # where nothing is decided by it
START_SECONDS = 1.5  # of a run, beside what is measured: workers, loggers, the last checkpoint and the weights
LEAST_TRAINING = 0.25  # of the budget
# Which images a run has follows from these alone.
_OF_IMAGES = (
    "include",
    "exclude",
    "channels",
    "labels",
    "test",
    "held_out",
    "value_range",
    "data_root",
    "knn_evaluations",
    "seed",
)
_LENGTH = ("steps", "epochs")
_WIDTHS = 22, 12

Assemble = Callable[[Config, RunImages | None], Pretraining]


def is_complete(stated: Mapping[str, Any]) -> bool:
    """Whether the rules have nothing left to decide, as with the config.yaml of a fitted run."""
    return set(rules.FIELDS) <= stated.keys()


def fitted(
    data: Any, stated: Mapping[str, Any], *, budget: str | None, assemble: Assemble, start: float, quiet: bool
) -> Pretraining:
    """The run with everything decided that is not stated; prints the table as it comes to be, and the prediction.

    Args:
        data: images of the user's.
        stated: options, which are not changed.
        budget: see `moco.fit.budget.seconds`; None for the usual one of the device.
        assemble: makes the run of a configuration and its images.
        start: time.perf_counter() when the command began.
        quiet: print nothing.

    Raises:
        ConfigError: a budget that is no time, too short, or beside a stated length; options that cannot work.
        DataError: see `moco.fit.facts.look`.
    """
    stated = {name: value for name, value in stated.items() if value is not None or name not in rules.FIELDS}
    seconds = None if budget is None else times.seconds(budget)
    length = [name for name in _LENGTH if stated.get(name) is not None]
    if budget is not None and length:
        raise ConfigError(f"budget={budget} with {length[0]}={stated[length[0]]}: a length is stated, drop one of them")
    first = configure(RECIPE, dict(stated))  # wrong options are refused before the images are looked at
    with doing("looking at the images", show=not quiet):
        options = {name: stated[name] for name in _OF_IMAGES if name in stated}
        images = open_images(data, configure(RECIPE, {**options, "batch_size": 1}))
        facts = look(images, first, seconds)
    choices = rules.first_choices(facts, stated)
    settled = {**stated, **{choice.what: choice.value for choice in choices}}
    config = configure(RECIPE, settled)
    check_batch(images, config)
    # Before the network: torchvision takes seconds to load.
    say(_heading(facts, length), *table([_weights(stated), *choices]), quiet=quiet)
    run = assemble(config, images)
    run.introduce()
    _finish(run, facts, settled, start=start, quiet=quiet)
    return run


def predicted(run: Pretraining, *, start: float, quiet: bool) -> None:
    """Measure a run whose options are all stated, and say what it will take."""
    run.introduce()
    with doing("measuring steps", show=not quiet):
        measured = measure(run, SHORT_MEASURING)
    _predict(run, measured, start=start, quiet=quiet)


def table(choices: Sequence[Choice]) -> list[str]:
    """Rows: what, value, why."""
    return [f"  {c.what:{_WIDTHS[0]}} {_value(c.value):>{_WIDTHS[1]}}  {c.why}" for c in choices]


def say(*lines: str, quiet: bool) -> None:
    """Print to stderr."""
    if not quiet:
        print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)


def _finish(run: Pretraining, facts: Facts, settled: Mapping[str, Any], *, start: float, quiet: bool) -> None:
    """Measure, decide on the length, predict; a stated length is only measured for who wants to know."""
    stated = any(settled.get(name) is not None for name in _LENGTH)
    if quiet and stated:
        run.settle(**{c.what: c.value for c in rules.length_choices(facts, settled, Pace(step=0.0, start=0.0))})
        return
    with doing("measuring steps", show=not quiet):
        measured = measure(run, min(MEASURING, 0.1 * facts.budget))
    pace = pace_of(run, measured, facts.images, start)
    choices = rules.length_choices(facts, settled, pace)
    if measured.memory > facts.memory:
        raise ConfigError(
            f"a step takes {measured.memory / 2**30:.0f} GiB, of {facts.memory / 2**30:.0f}: state a smaller "
            "--batch-size or --image-size, or --activation-checkpointing or --chunk-size"
        )
    values = {choice.what: choice.value for choice in choices}
    if not stated:
        _check_length({**dataclasses.asdict(run.config), **values}, facts, pace)
        values["epochs"] = None
    run.settle(**values)
    say(*table(choices), quiet=quiet)
    _predict(run, measured, start=start, quiet=quiet)


def pace_of(run: Pretraining, measured: Measured, visited: int, start: float) -> Pace:
    """What the rules of the length need; `visited`: images that are decoded, `start`: when the command began."""
    curve, whole = evaluated(run)
    once = measured.decoding * visited + measured.reading * min(whole, run.config.knn_images)
    begin = time.perf_counter() - start + START_SECONDS + once
    evaluations: Any = {"evaluation": measured.evaluation, "curve": curve, "whole": whole}
    return Pace(step=measured.step, start=begin, wholes=2 + run.begins_trained, **evaluations)


def _check_length(settled: Mapping[str, Any], facts: Facts, pace: Pace) -> None:
    fixed = rules.fixed_seconds(settled, pace)
    evaluations = ", evaluations" if pace.whole else ""
    if facts.budget - fixed < max(LEAST_TRAINING * facts.budget, 2 * pace.step):
        needed = max(fixed / (1 - LEAST_TRAINING), fixed + 2 * pace.step)
        raise ConfigError(
            f"budget={facts.budget:.0f}s: start{evaluations} and end take {fixed:.0f} s and a step {pace.step:.2g} s; "
            f"give at least --budget {1 + int(1.2 * needed)}s" + (", or --knn-evaluations 0" if pace.whole else "")
        )


def _predict(run: Pretraining, measured: Measured, *, start: float, quiet: bool) -> None:
    config, images = run.config, len(run.images.pretraining)
    steps = config.steps or (config.epochs or 0) * (images // config.batch_size)
    pace = pace_of(run, measured, min(images, steps * config.batch_size), start)
    seconds = rules.fixed_seconds(dataclasses.asdict(config), pace) + steps * measured.step
    device = expected_device(config)
    memory = measured.memory + (evaluation_bytes(run) if device.type == "cpu" else 0)
    run.predicted = Predicted(round(seconds, 1), memory)
    enough = memory <= memory_bytes(device)
    said = f"memory about {memory / 2**30:.2g} GiB" + ("" if enough else ", more than there is: lower --batch-size")
    say(f"about {duration(seconds)}: {steps:,} steps at {measured.step:.2g} s; {said}", quiet=quiet)


def _weights(stated: Mapping[str, Any]) -> Choice:
    """What the run starts from, which is never decided for the user: weights would be downloaded."""
    init = stated.get("init")
    if init is not None:
        return Choice("init", Path(init).name, "stated")
    return Choice("init", "random", "weights trained on other images are worth more: --init torchvision/resnet18")


def _heading(facts: Facts, length: Sequence[str]) -> str:
    colour = "grey" if facts.grey else "colour"
    device = "a GPU" if facts.gpu else f"{facts.cores} CPU cores"
    time_ = f"{length[0]} stated" if length else f"budget {duration(facts.budget)} (--budget)"
    return f"{facts.images:,} {colour} images of about {facts.side} px on {device}, {time_}:"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
