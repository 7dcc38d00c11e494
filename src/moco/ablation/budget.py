"""What a grid will cost, before it starts, and what is left of it. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections.abc import Sequence
from typing import Any

from moco.ablation.plan import CHOSEN, OPERATIONAL, Planned
from moco.config import Config

# Fields that change what is learnt and not how long a step takes.
_FREE = (
    "recipe",
    "key_momentum",
    "bank_momentum",
    "temperature",
    "crop_min",
    "base_learning_rate",
    "sgd_momentum",
    "weight_decay",
    "schedule",
    "schedule_unit",
    "lr_milestones",
    "lr_decay",
    "warmup_steps",
    "epochs",
    "steps",
    "seed",
    "held_out",
    "knn_evaluations",
    "num_neighbors",
    "knn_temperature",
    "log_every",
    *OPERATIONAL,
)


def kind(config: Config) -> str:
    """What the time of a step depends on, without the size of the dictionary, as text."""
    stated = dataclasses.asdict(config)
    return json.dumps({k: v for k, v in stated.items() if k not in _FREE and k != "dictionary_size"}, sort_keys=True)


def network(config: Config) -> str:
    """Runs that agree in this share one choice of precision, layout and compilation."""
    return json.dumps([getattr(config, name) for name in _NETWORK])


def to_measure(runs: Sequence[Planned]) -> list[Config]:
    """One configuration of each kind, for several dictionary sizes that of the smallest and that of the largest."""
    kinds: dict[str, list[Config]] = {}
    for run in runs:
        kinds.setdefault(kind(run.config), []).append(run.config)
    chosen: list[Config] = []
    for configs in kinds.values():
        ends = {_size(config): config for config in sorted(configs, key=_size)}
        chosen += [config for size, config in ends.items() if size in (min(ends), max(ends))]
    return chosen


_NETWORK = ("backbone", "image_size", "stem", "head", "embedding_dim", "devices", "num_nodes", "accelerator", *CHOSEN)


@dataclasses.dataclass(frozen=True)
class Rates:
    """What was measured.

    Attributes:
        steps: seconds of a step by kind and dictionary size; None where it could not be measured.
        start_seconds: of a process, until its images are open.
        evaluation: seconds of the figures before training, of the kNN monitor, of the linear probe.
    """

    steps: dict[str, dict[int, float | None]]
    start_seconds: float
    evaluation: dict[str, float]

    @classmethod
    def read(cls, configs: Sequence[Config], reports: Sequence[dict[str, Any]]) -> Rates:
        """From the reports of one or several processes that measured side by side, the mean of their times."""
        steps: dict[str, dict[int, float | None]] = {}
        for place, config in enumerate(configs):
            found = [report["seconds_per_step"][place] for report in reports]
            seconds = None if None in found else sum(found) / len(found)
            steps.setdefault(kind(config), {})[_size(config)] = seconds
        parts = reports[0]["evaluation"] or {}
        evaluation = {name: sum(report["evaluation"][name] for report in reports) / len(reports) for name in parts}
        start = sum(report["start_seconds"] for report in reports) / len(reports)
        return cls(steps, start, evaluation)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as `from_dict` takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Rates:
        """From what `as_dict` gave, also by way of JSON."""
        steps = {name: {int(size): s for size, s in sizes.items()} for name, sizes in stored["steps"].items()}
        return cls(**{**stored, "steps": steps})

    def covers(self, configs: Sequence[Config]) -> bool:
        """Whether all of these were measured, or lie between two that were."""
        return all(
            kind(config) in self.steps
            and min(self.steps[kind(config)]) <= _size(config) <= max(self.steps[kind(config)])
            for config in configs
        )

    def seconds_per_step(self, config: Config) -> float | None:
        """Of a step; between two dictionary sizes on the line through them."""
        known = {size: seconds for size, seconds in self.steps[kind(config)].items() if seconds is not None}
        if not known:
            return None
        low, high = min(known), max(known)
        share = 0.0 if low == high else (_size(config) - low) / (high - low)
        return known[low] + share * (known[high] - known[low])

    def evaluation_seconds(self, *, linear: bool, first: bool) -> float:
        """Of a run's figures; `first` of its seed and network computes those before training too."""
        names = ["monitor", *(["linear"] if linear else []), *(["baselines"] if first else [])]
        return sum(self.evaluation.get(name, 0.0) for name in names)


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
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(config: Config) -> int:
    return config.dictionary_size or 0
