"""Points of a track as a table and as two curves: accuracy against time, and against FLOPs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
CLOCKS = {"wall": ("seconds", "seconds"), "cpu": ("cpu_seconds", "seconds of CPU")}


class Length(NamedTuple):
    """An entry at one length: means over its seeds, the deviation of a single run, and FLOPs, None if not counted."""

    epochs: int
    seconds: float
    flops: float | None
    accuracy: float
    deviation: float
    seeds: int


def curves(rows: list[Row], *, clock: str) -> dict[str, list[Length]]:
    """By entry, its lengths in growing order. FLOPs are those of the counted run, times the ratio of the lengths."""
    field, found = CLOCKS[clock][0], {}
    counted = {row["entry"]: row["flops"] / row["epochs"] for row in rows if row.get("flops")}
    judged = [row for row in rows if "knn_top1" in row]
    for entry, rate in dict.fromkeys((row["entry"], row["rate"]) for row in judged):
        line, runs = [], [row for row in judged if (row["entry"], row["rate"]) == (entry, rate)]
        for epochs in sorted({row["epochs"] for row in runs}):
            alike = [row for row in runs if row["epochs"] == epochs]
            accuracies = [row["knn_top1"] for row in alike]
            line.append(
                Length(
                    epochs,
                    statistics.fmean(row[field] for row in alike),
                    counted[entry] * epochs if entry in counted else None,
                    statistics.fmean(accuracies),
                    statistics.stdev(accuracies) if len(alike) > 1 else 0.0,
                    len(alike),
                )
            )
        found[entry if rate == 1 else f"{entry}, learning rate x{rate:g}"] = line
    return found


def table(rows: list[Row], *, clock: str) -> str:
    """Markdown, with what failed below."""
    lines = [f"| entry | epochs | {CLOCKS[clock][1]} | PFLOP | 20-NN, % | seeds |", "|" + " --- |" * 6]
    for entry, line in curves(rows, clock=clock).items():
        for at in line:
            flops = "not counted" if at.flops is None else f"{at.flops / 1e15:.3g}"
            accuracy = f"{100 * at.accuracy:.1f}" + (f" ± {100 * at.deviation:.1f}" if at.seeds > 1 else "")
            lines.append(f"| {entry} | {at.epochs} | {at.seconds:,.0f} | {flops} | {accuracy} | {at.seeds} |")
    for row in rows:
        if "failed" in row or "late" in row:
            said = row.get("failed") or f"not done after {row['late']} s"
            lines.append(f"{row['entry']}, {row['epochs']} epochs, seed {row['seed']}: {said}")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path, *, title: str, clock: str) -> None:
    """Both curves side by side, an error bar for the deviation of a single run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for entry, line in curves(rows, clock=clock).items():
        heights, bars = [100 * at.accuracy for at in line], [100 * at.deviation for at in line]
        shown: dict[str, Any] = {"yerr": bars, "marker": "o", "capsize": 3, "label": entry}
        drawn = panels[0].errorbar([at.seconds for at in line], heights, **shown)
        if line[0].flops is not None:
            panels[1].errorbar([at.flops for at in line], heights, color=drawn[0].get_color(), **shown)
    panels[0].set(xscale="log", xlabel=f"{CLOCKS[clock][1]} of training", ylabel="20-NN top-1, %")
    panels[1].set(xscale="log", xlabel="FLOPs of training")
    for panel in panels:
        panel.grid(True, alpha=0.3)
    panels[0].legend(fontsize="small")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
