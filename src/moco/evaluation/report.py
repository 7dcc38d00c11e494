"""What was measured: as plain data for programs, as a table for people."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from moco.evaluation.verdict import Compared, Outcome, verdict
from moco.printable import printable
from moco.sizes import size_text
from moco.version import versions

Range = tuple[float, float]
# What the reader of the table calls the networks.
SHOWN = {
    "random_init": "random weights",
    "starting_weights": "starting weights",
    "pixels": "raw pixels",
    "from_scratch": "trained from scratch",
    "imagenet": "ImageNet-supervised",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one network.

    Attributes:
        network: run, random_init, starting_weights, pixels, from_scratch or imagenet.
        measure: what the figure is, such as knn_top1.
        inputs: features, embeddings, pixels, or images (a classifier on top of a network that was trained whole).
        values: one for each seed; one alone where nothing is drawn.
        interval: 95 % over test images, of the mean over seeds; None for scores without labels.
        how: protocol in a few words.
        label_fraction: share of the train labels used; 1 for all.
    """

    network: str
    measure: str
    inputs: str
    values: tuple[float, ...]
    interval: Range | None
    how: str
    label_fraction: float = 1.0

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Difference:
    """The run's figure less a baseline's on the same test images.

    Attributes:
        measure, inputs, label_fraction: of the run's figure.
        baseline: the other network.
        difference: shares of 1.
        interval: 95 %, paired over test images.
    """

    measure: str
    inputs: str
    label_fraction: float
    baseline: str
    difference: float
    interval: Range

    @property
    def verdict(self) -> Outcome:
        """better, worse, or undecided where the interval holds 0."""
        if self.interval[0] > 0:
            return "better"
        return "worse" if self.interval[1] < 0 else "undecided"


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of `moco.evaluate`.

    Attributes:
        network: name, architecture, stem, feature_dim, image_size, trained.
        data: train, test, numbers of images and classes, leaked and skipped images.
        settings: the options that count.
        rows: the figures.
        differences: the run beside its baselines.
        notes: what the reader should know.
        seconds: of the whole.
    """

    network: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    seconds: float

    def value(self, measure: str, network: str = "run", *, inputs: str | None = None, fraction: float = 1.0) -> float:
        """The figure of one row, the mean over its seeds.

        Raises:
            KeyError: no such row.
        """
        for row in self.rows:
            if (row.measure, row.network, row.label_fraction) == (measure, network, fraction) and inputs in (
                None,
                row.inputs,
            ):
                return row.mean
        have = ", ".join(sorted({f"{row.measure} of {row.network}" for row in self.rows}))
        raise KeyError(f"no {measure} of {network}; there are {have}")

    @property
    def verdict(self) -> str | None:
        """What the run is worth by its first measure, in words, and what to do next; None beside nothing."""
        if not self.network["trained"]:
            return "random weights, which have learnt nothing: moco pretrain" if self.differences else None
        return verdict(
            [
                Compared(each.baseline, each.verdict, _part(each.label_fraction))
                for each in self.differences
                if each.measure == self.differences[0].measure
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; its keys are stable. Shares are 0 to 1, times in seconds."""
        return {
            "network": self.network,
            "data": self.data,
            "settings": self.settings,
            "results": [{**dataclasses.asdict(row), "mean": row.mean, "std": row.std} for row in self.rows],
            "differences": [{**dataclasses.asdict(row), "verdict": row.verdict} for row in self.differences],
            "verdict": self.verdict,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "versions": versions(),
        }

    def __str__(self) -> str:
        lines = [self._heading(), "", *_table([_cells(row, self.network["name"]) for row in self.rows])]
        if self.differences:
            lines += ["", *(_sentence(difference) for difference in self.differences)]
        how = list(dict.fromkeys(f"{row.measure}: {row.how}" for row in self.rows))
        lines += ["", *how, *(f"note: {printable(note)}" for note in self.notes)]
        lines += [f"verdict: {self.verdict}"] if self.verdict else []
        return "\n".join(lines)

    def _heading(self) -> str:
        data, network = self.data, self.network
        size = size_text(network["image_size"])
        what = f"{printable(network['name'])} ({network['architecture']}, {size} px)"
        if data["train_images"] is None:
            return f"{what} on {data['test_images']:,} images of {printable(data['test'])}, no labels used"
        held = "held-out images" if data["held_out"] else "test images"
        return (
            f"{what} on {data['test_images']:,} {held} of {printable(data['test'])}, "
            f"{data['classes']} classes, {data['train_images']:,} train images"
        )


def _cells(row: Row, name: str) -> tuple[str, ...]:
    part = _part(row.label_fraction)
    network = printable(name) if row.network == "run" else SHOWN[row.network]
    if row.interval is None:
        return network, f"{row.measure} on {row.inputs}", f"{row.mean:.4g}", "", _spread(row, 1.0, "")
    low, high = (f"{100 * end:.1f}" for end in row.interval)
    figure = f"{row.mean:.1%}"
    return network, f"{row.measure} on {row.inputs}{part}", figure, f"{low} to {high}", _spread(row, 100.0, " points")


def _spread(row: Row, factor: float, unit: str) -> str:
    return "" if row.std is None else f"std {factor * row.std:.2g}{unit} over {len(row.values)} seeds"


def _part(fraction: float) -> str:
    return "" if fraction == 1 else f" at {fraction:.3g} of the labels"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    rows = [("network", "measure", "figure", "95 % interval", ""), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _sentence(row: Difference) -> str:
    low, high = (100 * end for end in row.interval)
    return (
        f"{row.verdict} than {SHOWN[row.baseline]}{_part(row.label_fraction)}: {100 * row.difference:+.1f} points "
        f"({low:+.1f} to {high:+.1f}) in {row.measure} on {row.inputs}"
    ).replace("undecided than", "not decided against")
