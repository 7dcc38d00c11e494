"""A comparison as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moco.printable import printable

if TYPE_CHECKING:
    from moco.transfer.fine_tuning.comparison import Comparison, Difference, Row

_SHOWN = 8  # classes in the table; the JSON has all


def table(comparison: Comparison) -> list[str]:
    """Figures with their spread, by initialisation; by class; differences; where the rest lies."""
    if comparison.semantic is not None:
        return _joint_table(comparison, comparison.semantic)
    first, settings = comparison.rows[0], comparison.settings
    names = [name for name in first.scores[0] if "/" not in name]
    classes = [name for name in first.scores[0] if "/" in name]
    data = " -> ".join(_data(settings, part) for part in ("train", "test"))
    lines = [f"{comparison.task}: {data}", _runs(comparison), ""]
    heads = ["", *names, "s/it"]
    lines += _aligned([heads, *([row.label, *_figures(row, names), _pace(comparison, row)] for row in comparison.rows)])
    if classes:
        lines += ["", f"{comparison.main_score} by class"]
        shown = classes[:_SHOWN]
        heads = ["", *(name.partition("/")[2] for name in shown)]
        lines += _aligned([heads, *([row.label, *_figures(row, shown)] for row in comparison.rows)])
        if len(classes) > _SHOWN:
            lines.append(f"and {len(classes) - _SHOWN} more classes in comparison.json")
    if comparison.differences:
        lines += ["", *(_difference(each, comparison.main_score) for each in comparison.differences)]
    lines += ["", *(f"{row.label}: {row.origin}" for row in comparison.rows)]
    lines += [f"note: {note}" for note in comparison.notes]
    if comparison.picture is not None:
        lines.append(f"picture: {comparison.picture}; all figures: {comparison.picture.parent / 'comparison.json'}")
    return [printable(line) for line in lines]


def _joint_table(comparison: Comparison, semantic: Comparison) -> list[str]:
    """Cityscapes: figures of both kinds of segmentation side by side, by initialisation."""
    parts = (("instances", comparison), ("semantic", semantic))
    data = " -> ".join(_data(comparison.settings, part) for part in ("train", "test"))
    lines = [f"{comparison.task}: {data}"]
    lines += [f"{name}: {_runs(part)}" for name, part in parts]
    names = [[name for name in part.rows[0].scores[0] if "/" not in name] for _, part in parts]
    heads = [
        "",
        *(
            f"{name} s/it" if head == "s/it" else head
            for (name, _), own in zip(parts, names, strict=True)
            for head in (*own, "s/it")
        ),
    ]
    rows = [
        [
            row.label,
            *_figures(row, names[0]),
            _pace(comparison, row),
            *_figures(other, names[1]),
            _pace(semantic, other),
        ]
        for row, other in zip(comparison.rows, semantic.rows, strict=True)
    ]
    lines += ["", *_aligned([heads, *rows]), ""]
    lines += [_difference(each, part.main_score) for _, part in parts for each in part.differences]
    lines += ["", *(f"{row.label}: {row.origin}" for row in comparison.rows)]
    lines += [f"note: {note}" for note in comparison.notes]
    lines += [
        f"picture: {part.picture}; by class: {part.picture.parent / 'comparison.json'}"
        for _, part in parts
        if part.picture
    ]
    return [printable(line) for line in lines]


def _runs(comparison: Comparison) -> str:
    """How long each run was, and how many there were."""
    seeds, schedule = len(comparison.rows[0].seeds), comparison.schedule
    said = f"{seeds} seed" + ("s, mean ± standard deviation" if seeds > 1 else "")
    mixed = ", trained in bf16" if comparison.how.get("precision") == "bf16" else ""
    return f"{schedule.iterations} iterations of {schedule.batch_size} images, {said}, percent{mixed}"


def _data(settings: dict[str, object], part: str) -> str:
    found = settings.get(part)
    if not isinstance(found, dict):
        return part
    counted = ", ".join(f"{value:,} {name}" for name, value in found.items() if isinstance(value, int))
    return f"{found.get('source', part)} ({counted})"


def _figures(row: Row, names: list[str]) -> list[str]:
    said = []
    for name in names:
        mean, spread = row.mean(name), row.spread(name)
        said.append("-" if mean is None else f"{mean:.1f}" + ("" if spread is None else f" ± {spread:.1f}"))
    return said


def _pace(comparison: Comparison, row: Row) -> str:
    return f"{sum(row.seconds) / len(row.seconds) / comparison.schedule.iterations:.2f}"


def _difference(each: Difference, main: str) -> str:
    error = "one seed: no spread" if each.error is None else f"standard error {each.error:.1f}, {each.outcome}"
    return f"{main} of {each.of} less {each.to}: {each.mean:+.1f} ({error})"


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        columns = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *columns]).rstrip())
    return lines
