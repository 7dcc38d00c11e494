"""One task from several initialisations: the same new layers, schedule and seeds for each, and what came out."""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from moco import atomic
from moco.contrast.collective import rank
from moco.printable import duration, printable
from moco.transfer.fine_tuning.loop import FineTuning
from moco.transfer.fine_tuning.options import Options, Progress
from moco.transfer.fine_tuning.schedule import Schedule
from moco.transfer.fine_tuning.task import Task
from moco.version import versions

MOCO, RANDOM, SUPERVISED = "moco", "random", "supervised"
_LEAST_SEEDS = 3  # of which a standard error is believed
_TIMED = 2  # iterations, after one that warms up, from which the time of all is predicted


@dataclasses.dataclass(frozen=True)
class Initialisation:
    """Where fine-tuning starts.

    Attributes:
        label: moco, random or supervised.
        origin: what the weights are, in words.
        make: the backbone of a seed; those with trained weights are the same for each.
    """

    label: str
    origin: str
    make: Callable[[int], nn.Module]


@dataclasses.dataclass(frozen=True)
class Row:
    """One initialisation's runs.

    Attributes:
        label, origin: see `Initialisation`.
        seeds: one each run.
        scores: figures of each run's test at the end.
        on_the_way: (iteration, main figure) of each run's tests, the last one at the end.
        losses: (iteration, mean loss) of each run.
        seconds: of each run's training.
        how: (iteration, device, precision, ranks) of each run: what it was trained on from that
            iteration on. A run that an earlier version has trained has none.
    """

    label: str
    origin: str
    seeds: tuple[int, ...]
    scores: tuple[dict[str, float], ...]
    on_the_way: tuple[tuple[tuple[int, float], ...], ...]
    losses: tuple[tuple[tuple[int, float], ...], ...]
    seconds: tuple[float, ...]
    how: tuple[tuple[tuple[int, dict[str, Any]], ...], ...] = ()

    def mean(self, name: str) -> float | None:
        """Of a figure over the seeds; None where a run lacks it."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def values(self, name: str) -> list[float]:
        """A figure of each run; none where a run lacks it."""
        found = [scores[name] for scores in self.scores if name in scores]
        return found if len(found) == len(self.scores) else []

    def spread(self, name: str) -> float | None:
        """Sample standard deviation over the seeds; None for one."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Difference:
    """The main figure from one initialisation less that from another, seed by seed.

    Attributes:
        of, to: their labels.
        mean: in points of a percent.
        error: standard error of the mean over the seeds; None for one seed.
        seeds: how many.
    """

    of: str
    to: str
    mean: float
    error: float | None
    seeds: int

    @property
    def outcome(self) -> str:
        """above or below by more than two standard errors, else undecided; the error of two seeds says too little."""
        if self.error is None or self.seeds < _LEAST_SEEDS or abs(self.mean) <= 2 * self.error:
            return "undecided"
        return "above" if self.mean > 0 else "below"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The outcome of `moco.transfer`.

    Attributes:
        task: its name.
        main_score: the figure that is compared.
        rows: a row each initialisation.
        settings: of the task.
        schedule: of every run.
        notes: what the reader should know: bad annotations, initialisations left out and why.
        seconds: of the whole command.
        picture: answers on test images, a row each initialisation; None where none was drawn.
        how: device, precision and ranks of the last call; those that each run was trained on: `Row.how`.
        semantic: of Cityscapes its semantic segmentation, from the same initialisations and seeds; None for others.
    """

    task: str
    main_score: str
    rows: tuple[Row, ...]
    settings: dict[str, Any]
    schedule: Schedule
    notes: tuple[str, ...]
    seconds: float
    picture: Path | None = None
    how: dict[str, Any] = dataclasses.field(default_factory=dict)
    semantic: Comparison | None = None

    def row(self, label: str) -> Row:
        """That of an initialisation; raises KeyError where there is none."""
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(f"no {label}; there are {', '.join(row.label for row in self.rows)}")

    @property
    def differences(self) -> list[Difference]:
        """MoCo beside the others, and supervised beside random."""
        labels, found = [row.label for row in self.rows], []
        for of, to in ((MOCO, RANDOM), (MOCO, SUPERVISED), (SUPERVISED, RANDOM)):
            if of in labels and to in labels:
                pairs = zip(*(self.row(label).values(self.main_score) for label in (of, to)), strict=True)
                each = [first - second for first, second in pairs]
                error = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None
                found.append(Difference(of, to, statistics.fmean(each), error, len(each)))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; its keys are stable. Figures are in percent, times in seconds."""
        semantic = {} if self.semantic is None else {"semantic": self.semantic.as_dict()}
        return {
            "task": self.task,
            "main_score": self.main_score,
            "results": [dataclasses.asdict(row) for row in self.rows],
            "differences": [{**dataclasses.asdict(each), "outcome": each.outcome} for each in self.differences],
            "settings": self.settings,
            "schedule": dataclasses.asdict(self.schedule),
            "how": self.how,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "picture": None if self.picture is None else str(self.picture),
            "versions": versions(),
            **semantic,
        }

    def __str__(self) -> str:
        from moco.transfer.fine_tuning.table import table

        return "\n".join(table(self))


def together(instances: Comparison, semantic: Comparison, *, out: Path) -> Comparison:
    """Cityscapes' two kinds of segmentation as one comparison, written to `comparison.json` in `out`.

    Raises:
        RunError: the file cannot be written.
    """
    notes = tuple(dict.fromkeys((*instances.notes, *semantic.notes)))
    seconds = instances.seconds + semantic.seconds
    found = dataclasses.replace(instances, task="cityscapes", notes=notes, seconds=seconds, semantic=semantic)
    atomic.write_json(out / "comparison.json", found.as_dict())
    return found


def compare(
    task: Task,
    initialisations: Sequence[Initialisation],
    *,
    schedule: Schedule,
    seeds: Sequence[int],
    options: Options,
    out: Path,
    notes: Sequence[str] = (),
) -> Comparison | None:
    """Fine-tune from each initialisation with each seed, test, draw, and write `comparison.json` into `out`.

    Every run has a checkpoint in `out`/checkpoints, from which the same call goes on; a finished run is not repeated.
    On several ranks all train one run after another; the first one tests and writes, the others return None.

    Raises:
        RunError: a run diverged, a checkpoint of other settings, or a file that cannot be written.
        KeyboardInterrupt: Ctrl-C came; the checkpoint of the run at hand is written.
    """
    started = time.monotonic()
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    waiting = _waiting(task, initialisations, schedule, seeds, options, out)
    if waiting and not options.quiet:
        _predict(task, initialisations, schedule, seeds, options, waiting)
    done: dict[str, list[Progress]] = {each.label: [] for each in initialisations}
    models: dict[str, nn.Module] = {}
    for seed in seeds:  # seed by seed, so that an early look compares like with like
        for each in initialisations:
            run = _run(task, each, schedule, seed, options, out)
            done[each.label].append(run.run())
            if seed == seeds[0]:
                models[each.label] = run.tested()
    if rank() > 0:
        return None
    rows = tuple(_row(each, seeds, done[each.label], task.main_score) for each in initialisations)
    task.picture(models, picture := out / f"{task.name}.png")
    said = (tuple(notes), time.monotonic() - started, picture, options.stated())
    found = Comparison(task.name, task.main_score, rows, task.settings(), schedule, *said)
    atomic.write_json(out / "comparison.json", found.as_dict())
    return found


def _waiting(
    task: Task,
    initialisations: Sequence[Initialisation],
    schedule: Schedule,
    seeds: Sequence[int],
    options: Options,
    out: Path,
) -> int:
    """How many runs have not begun; a checkpoint of other settings is refused before any is trained."""
    pairs = [(each, seed) for seed in seeds for each in initialisations]
    begun = [(each, seed) for each, seed in pairs if _file(out, each, seed).is_file()]
    if len(begun) < len(pairs):
        for each, seed in begun:
            _run(task, each, schedule, seed, options, out)
    return len(pairs) - len(begun)


def _run(
    task: Task, initialisation: Initialisation, schedule: Schedule, seed: int, options: Options, out: Path | None
) -> FineTuning:
    label = f"{initialisation.label}, seed {seed}"
    file = None if out is None else _file(out, initialisation, seed)
    backbone = initialisation.make(seed)
    return FineTuning(task, backbone, schedule=schedule, seed=seed, options=options, checkpoint=file, label=label)


def _file(out: Path, initialisation: Initialisation, seed: int) -> Path:
    return out / "checkpoints" / f"{initialisation.label}-{seed}.pt"


def _row(each: Initialisation, seeds: Sequence[int], done: list[Progress], main: str) -> Row:
    return Row(
        each.label,
        each.origin,
        tuple(seeds),
        tuple(progress.scores[-1][1] for progress in done),
        tuple(tuple((step, scores[main]) for step, scores in progress.scores) for progress in done),
        tuple(tuple(progress.curve) for progress in done),
        tuple(progress.seconds for progress in done),
        tuple(tuple(progress.how) for progress in done),
    )


def _predict(
    task: Task,
    initialisations: Sequence[Initialisation],
    schedule: Schedule,
    seeds: Sequence[int],
    options: Options,
    waiting: int,
) -> None:
    """Say how long the runs that have not begun will train, from a few iterations that are thrown away."""
    trial = _run(task, initialisations[0], schedule, seeds[0], options, None)
    seconds = trial.seconds_per_iteration(_TIMED)
    total = duration(seconds * schedule.iterations * waiting)
    said = (
        f"{waiting} runs ({', '.join(each.label for each in initialisations)}; {len(seeds)} seeds) of "
        f"{schedule.iterations} iterations at about {seconds:.2f} s: {total} "
        "of training; tests come on top"
    )
    if rank() == 0:
        print(printable(said), file=sys.stderr)
