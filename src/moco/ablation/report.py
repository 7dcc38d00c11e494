"""What a grid leaves for people and programs: tables, pictures, JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moco.ablation.markdown import markdown, table_lines
from moco.ablation.plan import Plan
from moco.ablation.plot import draw
from moco.ablation.rows import Table, tables
from moco.ablation.settings import Settings
from moco.ablation.store import Store, write_json
from moco.errors import INTERRUPTED

EXIT_CODES = {"planned": 0, "finished": 0, "unfinished": 3, "interrupted": INTERRUPTED}  # by ending


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The outcome of `moco.ablate`.

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
        """What a program that was asked for this ends with."""
        return EXIT_CODES[self.ending]

    def __str__(self) -> str:
        if self.ending == "planned":
            return self.budget
        parts = ["\n".join([table.study.title, *table_lines(table)]) for table in self.tables]
        if not self.finished:
            parts.append(f"{self.ending}: the same command goes on")
        return "\n\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: the content of ablation.json, or the plan."""
        if self.ending == "planned":
            runs = [{"name": run.name, "steps": run.steps} for run in self.plan.runs]
            return {"ending": self.ending, "runs": runs, "budget": self.budget}
        content: dict[str, Any] = json.loads((self.path / "ablation.json").read_text(encoding="utf-8"))
        return content


def write(settings: Settings, store: Store, plan: Plan, ending: str, budget: str) -> Ablation:
    """Write ablation.json, ablation.md and a picture for each study."""
    found = tables(plan, store.outcome)
    outcomes = [outcome for run in plan.runs if (outcome := store.outcome(run.name)) is not None]
    done = [outcome for outcome in outcomes if outcome["state"] == "finished"]
    facts = {
        "ending": ending,
        "command": settings.command,
        "data": settings.data,
        "images": plan.base.images,
        "recipe": settings.base[0],
        "options": store.noted("asked")["options"],
        "seeds": list(settings.seeds),
        "jobs": settings.jobs,
        "hardware": store.noted("hardware"),
        "versions": _distinct(done, "versions"),
        "knn_protocol": _distinct(done, "knn_protocol"),
        "linear_protocol": _distinct(done, "linear_protocol"),
        "knn_pixels": _distinct(done, "knn_pixels"),
        "knn_random_init": _distinct(done, "knn_random_init"),
        "studies": [table.as_dict() for table in found],
    }
    write_json(store.path / "ablation.json", facts)
    page = store.path / "ablation.md"
    page.write_text(markdown(found, _heading(settings), list(_facts(facts))), encoding="utf-8")
    pictures = [file for table in found for file in draw(table, store.path)]
    files = (page, store.path / "ablation.json", *pictures)
    return Ablation(store.path, ending, found, plan, budget, files)


def _distinct(outcomes: list[dict[str, Any]], name: str) -> list[Any]:
    """The values that occur, in order: one, unless versions changed on the way or the seeds differ."""
    found: list[Any] = []
    for outcome in outcomes:
        value = outcome.get(name)
        if value is not None and value not in found:
            found.append(value)
    return found


def _heading(settings: Settings) -> str:
    what = settings.study or " and ".join(settings.vary)
    return f"{what} on {settings.data or 'the picture book'}"


def _facts(facts: dict[str, Any]) -> Iterator[str]:
    options = ", ".join(f"{name} {value}" for name, value in facts["options"].items())
    yield f"recipe {facts['recipe']}{', ' + options if options else ''}; {facts['images']:,} images to learn from"
    yield f"seeds {', '.join(map(str, facts['seeds']))}; ± is the sample standard deviation over them; last step"
    for protocol in facts["knn_protocol"]:
        yield f"kNN: {protocol}"
    for name, words in (("knn_pixels", "raw pixels"), ("knn_random_init", "random weights")):
        if facts[name]:
            yield f"kNN of {words}: {', '.join(f'{100 * value:.1f} %' for value in facts[name])}"
    for protocol in facts["linear_protocol"]:
        yield f"linear: {protocol}; the same images as kNN"
    if facts["hardware"]:
        yield f"hardware: {facts['hardware']}, {facts['jobs']} side by side"
    for versions in facts["versions"]:
        yield ", ".join(f"{name} {version}" for name, version in versions.items())
    if facts["command"]:
        yield f"`{facts['command']}`"
    if facts["ending"] != "finished":
        yield f"{facts['ending']}: some runs are still open"
