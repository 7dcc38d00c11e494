"""From the outcomes of runs to the rows of the tables: mean and deviation over seeds. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from moco.ablation.plan import Plan
from moco.ablation.study import Point, Study

MEASURES = ("knn_top1", "linear_top1", "loss", "pretext_accuracy", "images_per_second", "training_seconds")
ACCURACIES = {"knn_top1": "kNN", "linear_top1": "linear probe"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One point of a study and what came of it.

    Attributes:
        point: label, options, place in the plot and published figure.
        runs: name of the run of each seed.
        values: of each measure, those of the finished seeds, in the order of the seeds.
        failures: reason by run, for those that failed.
        missing: runs that are not finished yet.
    """

    point: Point
    runs: dict[int, str]
    values: dict[str, tuple[float, ...]]
    failures: dict[str, str]
    missing: tuple[str, ...]

    def mean(self, measure: str) -> float | None:
        """Over the finished seeds; None without any."""
        values = self.values[measure]
        return statistics.fmean(values) if values else None

    def std(self, measure: str) -> float | None:
        """Sample standard deviation over the finished seeds; None for fewer than two."""
        values = self.values[measure]
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def failed(self) -> bool:
        """Whether every run has failed."""
        return len(self.failures) == len(self.runs)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; shares are 0 to 1, times in seconds."""
        measured = {
            name: {"mean": self.mean(name), "std": self.std(name), "values": list(values)}
            for name, values in self.values.items()
        }
        return {
            "label": self.point.label,
            "line": self.point.line,
            "x": self.point.x,
            "options": dict(self.point.options),
            "published": self.point.published or None,
            "runs": {str(seed): name for seed, name in self.runs.items()},
            **measured,
            "failures": self.failures,
            "missing": list(self.missing),
        }


@dataclasses.dataclass(frozen=True)
class Table:
    """A study with its rows."""

    study: Study
    rows: tuple[Row, ...]

    def measured(self, measure: str) -> bool:
        """Whether any row has it."""
        return any(row.values[measure] for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        study = self.study
        rows = [row.as_dict() for row in self.rows]
        return {"name": study.name, "title": study.title, "notes": list(study.notes), "rows": rows}


def tables(plan: Plan, outcome: Callable[[str], dict[str, Any] | None]) -> tuple[Table, ...]:
    """The studies with what is known so far; `outcome` gives a run's, None while it is open."""
    return tuple(Table(study, tuple(_rows(plan, number, outcome))) for number, study in enumerate(plan.studies))


def _rows(plan: Plan, number: int, outcome: Callable[[str], dict[str, Any] | None]) -> Iterator[Row]:
    seeds = list(dict.fromkeys(seed for _, _, seed in plan.places))
    for position, point in enumerate(plan.studies[number].points):
        runs = {seed: plan.places[number, position, seed] for seed in seeds}
        found = {name: outcome(name) for name in runs.values()}
        done = [one for one in found.values() if one is not None and one["state"] == "finished"]
        yield Row(
            point,
            runs,
            {name: tuple(one[name] for one in done if one.get(name) is not None) for name in MEASURES},
            {name: one["reason"] for name, one in found.items() if one is not None and one["state"] == "failed"},
            tuple(name for name, one in found.items() if one is None),
        )
