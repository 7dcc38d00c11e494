"""The tables as Markdown. Loads without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moco.ablation import published
from moco.ablation.rows import Row, Table

# Heading of each measure, factor and decimals.
_SHOWN = {
    "knn_top1": ("kNN %", 100.0, 1),
    "linear_top1": ("linear %", 100.0, 1),
    "loss": ("loss", 1.0, 2),
    "pretext_accuracy": ("pretext %", 100.0, 1),
    "images_per_second": ("images/s", 1.0, 0),
    "training_seconds": ("training, s", 1.0, 0),
}


def markdown(tables: Sequence[Table], heading: str, facts: Sequence[str]) -> str:
    """The whole page: what was run, then one table for each study."""
    parts = [f"# {heading}", "\n".join(f"- {fact}" for fact in facts)]
    for table in tables:
        parts += [f"## {table.study.title}", "\n".join(table_lines(table)), *_remarks(table)]
    return "\n\n".join(parts) + "\n"


def table_lines(table: Table) -> list[str]:
    """One study's table, a line for each point; columns that no run fills are left out."""
    columns = [name for name in _SHOWN if table.measured(name)]
    compared = any(row.point.published for row in table.rows)
    headings = [table.study.axis_label, *([_SHOWN[name][0] for name in columns] or ["state"])]
    headings += [published.HEADING] if compared else []
    lines = [_line(headings), _line(["---"] * len(headings))]
    for row in table.rows:
        cells = [row.point.label, *_cells(row, columns)]
        lines.append(_line([*cells, row.point.published or "-"] if compared else cells))
    return lines


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    if not row.values["training_seconds"]:
        state = "**failed**" if row.failed else "not run yet"
        return [state, *["-"] * (len(columns) - 1)]
    cells = [_figure(row, name) for name in columns]
    if row.failures or row.missing:
        states = [f"{len(row.failures)} failed"] * bool(row.failures) + [f"{len(row.missing)} open"] * bool(row.missing)
        cells[0] += f" ({', '.join(states)} of {len(row.runs)} seeds)"
    return cells


def _figure(row: Row, measure: str) -> str:
    _, factor, decimals = _SHOWN[measure]
    mean, std = row.mean(measure), row.std(measure)
    if mean is None:
        return "-"
    spread = "" if std is None else f" ± {factor * std:,.{decimals}f}"
    return f"{factor * mean:,.{decimals}f}{spread}"


def _remarks(table: Table) -> Iterator[str]:
    notes = list(table.study.notes)
    notes += [f"{name} failed: {reason}" for row in table.rows for name, reason in row.failures.items()]
    if notes:
        yield "\n".join(f"- {note}" for note in dict.fromkeys(notes))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
