"""What a grid will cost, before it starts: from a pilot of a few steps of each kind of run."""

from __future__ import annotations

import dataclasses
import heapq
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence

from moco.config import Config
from moco.sweep.job import PILOT_STEPS
from moco.sweep.plan import OPERATIONAL, Planned

# Fields that change what is learnt and not how long a step takes.
_FREE = {
    *("recipe", "key_momentum", "key_momentum_schedule", "bank_momentum", "temperature", "crop_min", "hue", "seed"),
    *("base_learning_rate", "sgd_momentum", "weight_decay", "schedule", "schedule_unit", "lr_milestones", "lr_decay"),
    *("warmup_steps", "warmup_epochs", "epochs", "steps", "held_out", "test", "labels", "knn_evaluations"),
    *("knn_images", "num_neighbors", "knn_temperature", "log_every", *OPERATIONAL),
}


def kind(config: Config) -> str:
    """What the time of a step depends on, as text; of the dictionary's size not even the largest cost much."""
    stated = dataclasses.asdict(config)
    return json.dumps({k: v for k, v in stated.items() if k not in _FREE and k != "dictionary_size"}, sort_keys=True)


def to_measure(runs: Iterable[Planned]) -> dict[str, Config]:
    """One configuration of each kind: that of the largest dictionary, so that the others cost no more."""
    ordered = sorted((run.config for run in runs), key=lambda config: config.dictionary_size or 0)
    return {kind(config): config for config in ordered if config.devices == 1}


def mean_rates(kinds: Iterable[str], pilots: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
    """The rate of each kind, from pilots that ran side by side."""
    means: dict[str, float | None] = {}
    for name, rates in zip(kinds, zip(*pilots, strict=True), strict=True):
        known = [rate for rate in rates if rate is not None]
        means[name] = statistics.fmean(known) if len(known) == len(rates) else None
    return means


def training_seconds(run: Planned, done: int, rates: Mapping[str, float | None]) -> float | None:
    """Seconds of training from step `done` on; None where no rate is known."""
    rate = rates.get(kind(run.config))
    return None if not rate else (run.steps - done) * run.config.batch_size / rate


def budget_text(heading: str, todo: Mapping[Planned, int], rates: Mapping[str, float | None], jobs: int) -> str:
    """What is to come, run by run (with the steps done of each), how long it will take, and how that is known."""
    seconds = {run.name: training_seconds(run, done, rates) for run, done in todo.items()}
    lines = []
    for run in todo:
        cost, rate = seconds[run.name], rates.get(kind(run.config))
        said = "time not known" if cost is None else f"{rate:,.0f} images/s, {spell(cost)}"
        lines.append(f"  {run.name}: {run.steps:,} steps of {run.config.batch_size}, {said}")
    known = [cost for cost in seconds.values() if cost is not None]
    if known:
        side = f", {jobs} side by side" if jobs > 1 else ""
        unknown = "without the runs whose time is not known, " if len(known) < len(seconds) else ""
        lines.append(
            f"about {spell(wall_seconds(known, jobs))} of training in all{side}; {unknown}start and evaluation come on "
            f"top (measured: {PILOT_STEPS} steps of each kind of run, at its largest dictionary)"
        )
    return "\n".join([f"{heading}, to run:", *lines])


def wall_seconds(seconds: Sequence[float], jobs: int) -> float:
    """Until the last of these runs ends, each started as soon as one of so many places is free."""
    free = [0.0] * jobs
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def spell(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
