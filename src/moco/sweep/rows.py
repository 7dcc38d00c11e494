"""From the figures of runs to the rows of the tables: mean and deviation over seeds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any

from moco.sweep.folder import GridFolder
from moco.sweep.plan import Plan
from moco.sweep.study import Point, Study

# Heading of each measure, factor and decimals.
MEASURES = {
    "knn_top1": ("kNN %", 100.0, 1),
    "linear_top1": ("linear %", 100.0, 1),
    "loss": ("loss", 1.0, 2),
    "pretext_accuracy": ("pretext %", 100.0, 1),
    "images_per_second": ("images/s", 1.0, 0),
    "training_seconds": ("training, s", 1.0, 0),
}
ACCURACIES = {"knn_top1": "kNN", "linear_top1": "linear probe"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One point of a study and what came of it."""

    point: Point
    runs: dict[int, str]  # name of the run of each seed
    values: dict[str, tuple[float, ...]]  # of each measure, of the finished seeds in order; shares are 0 to 1
    failures: dict[str, str]  # reason by run, for those that failed
    missing: tuple[str, ...]  # runs that are not finished yet

    def mean(self, measure: str) -> float | None:
        """Over the finished seeds; None without any."""
        return statistics.fmean(self.values[measure]) if self.values[measure] else None

    def std(self, measure: str) -> float | None:
        """Sample standard deviation over the finished seeds; None for fewer than two."""
        return statistics.stdev(self.values[measure]) if len(self.values[measure]) > 1 else None

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
        runs = {str(seed): name for seed, name in self.runs.items()}
        rest = {"runs": runs, **measured, "failures": self.failures, "missing": list(self.missing)}
        return {**dataclasses.asdict(self.point), "published": self.point.published or None, **rest}


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
        study, rows = self.study, [row.as_dict() for row in self.rows]
        return {"name": study.name, "title": study.title, "notes": list(study.notes), "rows": rows}


def tables(plan: Plan, folder: GridFolder) -> tuple[Table, ...]:
    """The studies with what is known so far."""
    return tuple(Table(study, tuple(_rows(plan, number, folder))) for number, study in enumerate(plan.studies))


def _rows(plan: Plan, number: int, folder: GridFolder) -> Iterator[Row]:
    planned = {run.name: run for run in plan.runs}
    for position, point in enumerate(plan.studies[number].points):
        runs = plan.places[number, position]
        failures = {name: why for name in runs.values() if (why := folder.failure(planned[name])) is not None}
        found = {name: folder.figures(planned[name]) for name in runs.values() if name not in failures}
        done = [figures for figures in found.values() if figures is not None]
        values = {name: tuple(one[name] for one in done if one.get(name) is not None) for name in MEASURES}
        yield Row(point, runs, values, failures, tuple(name for name, figures in found.items() if figures is None))
