"""A study as a picture: accuracy against what varies, error bars over seeds. Needs matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moco.atomic import replaced
from moco.sweep.rows import ACCURACIES, Row, Table
from moco.sweep.study import number

_MARKS = "os^DvP"  # one for each line, beside matplotlib's colours
_NAMES = {"moco": "MoCo", "memory-bank": "memory bank"}
FORMATS = ("svg", "png")
NO_PICTURES = "no pictures, for matplotlib is not installed: with it, the same command draws them"


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def draw(table: Table, folder: Path) -> list[Path]:
    """Write NAME.svg and NAME.png, a panel for each accuracy that was measured, if `can_draw`; nothing for none."""
    if not can_draw():
        return []
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measures = [name for name in ACCURACIES if table.measured(name)]
    if not measures:
        return []
    files = [folder / f"{table.study.name}.{kind}" for kind in FORMATS]
    # Letters stay letters, and the same figures give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "moco"}):
        figure = Figure(figsize=(5.2 * len(measures), 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            _panel(axes, table, measure)
        figure.suptitle(table.study.title)
        for file in files:
            with replaced(file) as partial:
                figure.savefig(partial, dpi=130, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _panel(axes: Any, table: Table, measure: str) -> None:
    study = table.study
    if study.axis == "category":
        _bars(axes, table.rows, measure)
    else:
        _lines(axes, table, measure)
    axes.set_xlabel(study.axis_label)
    axes.set_ylabel(f"{ACCURACIES[measure]}, top-1 accuracy in %")
    axes.grid(axis="y", alpha=0.3)
    _mark_failures(axes, table)


def _lines(axes: Any, table: Table, measure: str) -> None:
    lines = list(dict.fromkeys(row.point.line for row in table.rows))
    for line, mark in zip(lines, itertools.cycle(_MARKS)):
        rows = [row for row in table.rows if row.point.line == line and row.mean(measure) is not None]
        axes.errorbar(
            [_place(table, row) for row in rows],
            [100 * (row.mean(measure) or 0.0) for row in rows],
            yerr=[100 * (row.std(measure) or 0.0) for row in rows],
            marker=mark,
            capsize=3,
            label=_NAMES.get(line, line) or None,
        )
    if table.study.axis == "log":
        axes.set_xscale("log", base=2)
    ticks = {_place(table, row): number(row.point.x) for row in table.rows if row.point.x is not None}
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=30 if len(ticks) > 6 else 0)
    axes.minorticks_off()
    if any(lines):
        axes.legend()


def _bars(axes: Any, rows: Sequence[Row], measure: str) -> None:
    heights = [100 * (row.mean(measure) or 0.0) for row in rows]
    errors = [100 * (row.std(measure) or 0.0) for row in rows]
    axes.bar(range(len(rows)), heights, yerr=errors, capsize=4, width=0.6)
    long = max(len(row.point.label) for row in rows) > 60 / len(rows)
    turned = {"rotation": 20, "ha": "right"} if long else {}
    axes.set_xticks(range(len(rows)), [row.point.label for row in rows], **turned)


def _mark_failures(axes: Any, table: Table) -> None:
    """A cross and a word at the bottom, where every run of a point has failed."""
    for position, row in enumerate(table.rows):
        if row.failed:
            place = position if table.study.axis == "category" else _place(table, row)
            transform = axes.get_xaxis_transform()
            axes.plot([place], [0.03], marker="x", color="black", transform=transform, clip_on=False)
            axes.text(place, 0.06, "failed", transform=transform, ha="center", va="bottom", fontsize=8)


def _place(table: Table, row: Row) -> float:
    if table.study.axis != "even":
        return row.point.x if row.point.x is not None else math.nan
    return float(sorted({other.point.x or 0.0 for other in table.rows}).index(row.point.x or 0.0))
