"""What a grid leaves for people and programs: tables, pictures, JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moco.atomic import write_json, write_text
from moco.errors import INTERRUPTED
from moco.printable import printable_lines
from moco.sweep.folder import GridFolder
from moco.sweep.plan import Plan
from moco.sweep.plot import draw
from moco.sweep.rows import MEASURES, Row, Table, tables
from moco.sweep.settings import Settings

EXIT_CODES = {"planned": 0, "finished": 0, "unfinished": 3, "interrupted": INTERRUPTED}  # by ending
# Facts of the finished runs: one value each, unless versions changed on the way or the seeds differ.
_FACTS = ("images", "versions", "knn_protocol", "linear_protocol", "knn_pixels", "knn_random_init")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The outcome of `moco.ablate`; `print` shows its tables.

    Attributes:
        path: folder of the grid.
        ending: finished (every run has ended, well or not), unfinished (out of time), interrupted (Ctrl-C), or
            planned (dry run).
        tables: the studies with their rows.
        plan: the runs.
        budget: what was to be run and how long it would take, as it was said before the start.
        files: that were written.
    """

    path: Path
    ending: str
    tables: tuple[Table, ...]
    plan: Plan
    budget: str
    files: tuple[Path, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every run has ended, well or not."""
        return self.ending == "finished"

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return EXIT_CODES[self.ending]

    def as_dict(self) -> dict[str, Any]:
        """Plain data: the content of ablation.json, or of a dry run its plan."""
        if self.ending == "planned":
            runs = [{"name": run.name, "steps": run.steps} for run in self.plan.runs]
            return {"ending": self.ending, "runs": runs, "budget": self.budget}
        return dict(json.loads((self.path / "ablation.json").read_text(encoding="utf-8")))

    def __str__(self) -> str:
        if self.ending == "planned":
            return self.budget
        parts = ["\n".join([table.study.title, *table_lines(table)]) for table in self.tables]
        return "\n\n".join([*parts, *([] if self.finished else [f"{self.ending}: the same command goes on"])])


def write(settings: Settings, folder: GridFolder, plan: Plan, ending: str, budget: str) -> Ablation:
    """Write ablation.json, ablation.md and a picture for each study."""
    found = tables(plan, folder)
    done = [figures for run in plan.runs if (figures := folder.figures(run)) is not None]
    facts = {
        "ending": ending,
        "command": settings.command,
        "shared": settings.shared,
        "seeds": list(settings.seeds),
        "jobs": settings.jobs,
        **{name: _distinct([one.get(name) for one in done]) for name in _FACTS},
        "studies": [table.as_dict() for table in found],
    }
    write_json(folder.path / "ablation.json", facts)
    what = settings.study or " and ".join(settings.vary)
    parts = [f"# {what} on {settings.data or 'the picture book'}", "\n".join(f"- {fact}" for fact in _facts(facts))]
    for table in found:
        parts += [f"## {table.study.title}", "\n".join(table_lines(table)), *_remarks(table)]
    page = folder.path / "ablation.md"
    write_text(page, "\n\n".join(map(printable_lines, parts)) + "\n")
    pictures = [file for table in found for file in draw(table, folder.path)]
    return Ablation(folder.path, ending, found, plan, budget, (page, folder.path / "ablation.json", *pictures))


def _distinct(values: Sequence[Any]) -> list[Any]:
    """The values that occur, in order."""
    return [value for place, value in enumerate(values) if value is not None and value not in values[:place]]


def _facts(facts: dict[str, Any]) -> Iterator[str]:
    shared = ", ".join(f"{name} {value}" for name, value in facts["shared"].items() if name != "data")
    yield f"{shared}; {' or '.join(f'{images:,}' for images in facts['images']) or 'no'} images learnt from"
    yield f"seeds {', '.join(map(str, facts['seeds']))}; ± is the sample standard deviation over them; last step"
    yield from (f"kNN: {protocol}" for protocol in facts["knn_protocol"])
    for name, words in (("knn_pixels", "raw pixels"), ("knn_random_init", "random weights")):
        if facts[name]:
            yield f"kNN of {words}: {', '.join(f'{100 * value:.1f} %' for value in facts[name])}"
    yield from (f"linear: {protocol}; the same images as kNN" for protocol in facts["linear_protocol"])
    yield from (", ".join(f"{name} {version}" for name, version in one.items()) for one in facts["versions"])
    if facts["command"]:
        yield f"`{facts['command']}`, {facts['jobs']} side by side"
    if facts["ending"] != "finished":
        yield f"{facts['ending']}: some runs are still open"


def table_lines(table: Table) -> list[str]:
    """One study's table in Markdown, a line for each point; columns that no run fills are left out."""
    columns = [name for name in MEASURES if table.measured(name)]
    compared = any(row.point.published for row in table.rows)
    headings = [table.study.axis_label, *([MEASURES[name][0] for name in columns] or ["state"])]
    lines = [[*headings, "published (ImageNet linear, R50)"], ["---"] * (len(headings) + 1)]
    lines += [[row.point.label, *_cells(row, columns), row.point.published or "-"] for row in table.rows]
    return [f"| {' | '.join(cells if compared else cells[:-1])} |" for cells in lines]


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    if not row.values["training_seconds"]:
        return ["**failed**" if row.failed else "not run yet", *["-"] * (len(columns) - 1)]
    cells = [_figure(row, name) for name in columns]
    states = [f"{len(runs)} {word}" for runs, word in ((row.failures, "failed"), (row.missing, "open")) if runs]
    if states:
        cells[0] += f" ({', '.join(states)} of {len(row.runs)} seeds)"
    return cells


def _figure(row: Row, measure: str) -> str:
    _, factor, decimals = MEASURES[measure]
    mean, std = row.mean(measure), row.std(measure)
    if mean is None:
        return "-"
    return f"{factor * mean:,.{decimals}f}" + ("" if std is None else f" ± {factor * std:,.{decimals}f}")


def _remarks(table: Table) -> Iterator[str]:
    failures = [f"{name} failed: {reason}" for row in table.rows for name, reason in row.failures.items()]
    notes = dict.fromkeys([*table.study.notes, *failures])
    if notes:
        yield "\n".join(f"- {note}" for note in notes)
