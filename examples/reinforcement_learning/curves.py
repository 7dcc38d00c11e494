"""Learning curves of a grid: interquartile means with stratified bootstrap intervals (Agarwal et al., 2021).

The same figures as rliable's: `tests/examples/test_curves.py` compares them where rliable can be imported. It is no
dependency, because its own (arch below 8) fails to import beside pandas 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from examples.reinforcement_learning.runs import read_returns
from examples.reinforcement_learning.settings import ARMS
from scipy.stats import trim_mean

REPETITIONS = 2000


class Point(NamedTuple):
    """An interquartile mean with its 95 % interval, and of how many runs."""

    middle: float
    low: float
    high: float
    runs: int


def interquartile_mean(scores_by_task: list[np.ndarray], *, seed: int = 0) -> Point:
    """Over all runs of all tasks; the interval resamples runs within each task.

    Args:
        scores_by_task: for each task the scores of its runs.
        seed: of the resampling.

    Raises:
        ValueError: no scores.
    """
    if not scores_by_task or not all(len(scores) for scores in scores_by_task):
        raise ValueError("no scores: expected at least one run of each task")
    generator = np.random.default_rng(seed)
    drawn = [s[generator.integers(len(s), size=(REPETITIONS, len(s)))] for s in scores_by_task]
    low, high = np.percentile(trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1), [2.5, 97.5])
    every = np.concatenate(scores_by_task)
    return Point(float(trim_mean(every, 0.25)), float(low), float(high), len(every))


def curve(folder: Path, arm: str, task: str | None = None) -> dict[int, Point]:
    """Environment steps to the interquartile mean of the arm, for steps that all of its runs have reached.

    Args:
        folder: of a grid, task/arm/seed.
        arm: of `settings.ARMS`.
        task: None for all tasks together.
    """
    by_task = [
        [{row["env_steps"]: float(np.mean(row["returns"])) for row in read_returns(run)} for run in runs]
        for place in sorted(p for p in folder.iterdir() if p.is_dir() and task in (None, p.name))
        if (runs := [run for run in sorted((place / arm).glob("seed*")) if read_returns(run)])
    ]
    if not by_task:
        return {}
    common = set.intersection(*(set(run) for runs in by_task for run in runs))
    return {s: interquartile_mean([np.array([run[s] for run in runs]) for runs in by_task]) for s in sorted(common)}


def table(folder: Path) -> str:
    """A Markdown table: each task and arm at the last step that all its runs have reached.

    Raises:
        ValueError: a folder without runs.
    """
    lines = ["| task | arm | environment steps | return (95 %) | runs |", "| --- | --- | --- | --- | --- |"]
    for task in _tasks(folder):
        for arm in ARMS:
            if points := curve(folder, arm, task):
                steps, at = max(points.items())
                lines.append(
                    f"| {task} | {arm} | {steps:,} | {at.middle:.0f} ({at.low:.0f} to {at.high:.0f}) | {at.runs} |"
                )
    return "\n".join(lines)


def draw(folder: Path, out: Path) -> Path:
    """One panel a task, one line an arm; returns `out`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    tasks = _tasks(folder)
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(5 * len(tasks), 4), squeeze=False, layout="constrained")
    for panel, task in zip(panels[0], tasks, strict=True):
        for arm in ARMS:
            points = curve(folder, arm, task)
            line = panel.plot(list(points), [p.middle for p in points.values()], label=arm)[0]
            lows, highs = ([p[i] for p in points.values()] for i in (1, 2))
            panel.fill_between(list(points), lows, highs, color=line.get_color(), alpha=0.2)
        panel.set(title=task, xlabel="environment steps", ylabel="return")
    panels[0, 0].legend()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)
    return out


def _tasks(folder: Path) -> list[str]:
    found = sorted({path.parents[2].name for path in folder.glob("*/*/seed*/returns.jsonl")})
    if not found:
        raise ValueError(f"{folder}: no runs: expected the folder that `grid` was given as --out")
    return found
