"""One run of a grid in a process of its own: `python -m moco.ablation.worker JOB.json`.

The job says what to train and where to write; the outcome is a file. The process ends at the next step, with a
checkpoint, on SIGINT or SIGTERM, and when the process that started it is gone (its standard input ends).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from moco.ablation.store import read_json, write_json
from moco.config import Config
from moco.data.skipped import SkippedFiles
from moco.errors import INTERRUPTED, MocoError
from moco.hardware import settle
from moco.pretraining import Pretraining
from moco.recipes import configure
from moco.training.run_folder import RunFolder

FIRST = os.environ.get("LOCAL_RANK", "0") == os.environ.get("NODE_RANK", "0") == "0"  # of the run's processes
# What the figures before training depend on, beside the data.
_START = ("backbone", "image_size", "stem", "head", "embedding_dim", "seed", "normalization", "devices", "num_nodes")
_QUESTION = (
    "num_neighbors",
    "knn_temperature",
    "knn_evaluations",
    "knn_images",
    "precision",
    "held_out",
    "test",
    "labels",
)
BASELINES = ("knn_pixels", "knn_random_init")


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker is told.

    Attributes:
        data: as the user gave it.
        config: fields of the configuration, with "recipe".
        folder: the run's.
        outcome: file to write when the run is finished or has failed.
        baselines: folder for figures that several runs share.
        linear: whether a linear probe follows.
    """

    data: str | None
    config: dict[str, Any]
    folder: str
    outcome: str
    baselines: str
    linear: bool

    def configure(self) -> Config:
        """The configuration."""
        stated = dict(self.config)
        return configure(stated.pop("recipe"), stated)


def main(arguments: list[str]) -> int:
    """Do the job in the file; 0 when its outcome is written, 130 when it was stopped.

    A run on several devices starts this again for each further one, with nothing to report.
    """
    settle()
    job = Job(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = carry_out(job)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if not FIRST:
            raise
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        reason = said[0] if isinstance(error, MocoError) else f"{type(error).__name__}: {said[0]}"
        outcome = {"state": "failed", "reason": reason, "configuration": job.config}
    if not FIRST:
        return 0
    if outcome is None:
        return INTERRUPTED
    write_json(Path(job.outcome), outcome)
    return 0


def carry_out(job: Job) -> dict[str, Any] | None:
    """Train, or go on, and evaluate; returns the outcome, or None if it was stopped.

    Raises:
        MocoError: the run cannot be done; the folder keeps its last good checkpoint.
    """
    start, config, folder = time.perf_counter(), job.configure(), RunFolder(Path(job.folder))
    summary = read_json(folder.path / "summary.json")
    work = Pretraining.prepare(job.data, config, folder, quiet=True, start=start)
    if summary is None or not summary["finished"]:
        shared = _Shared(job, work.config)  # with the precision that was chosen
        work.baselines = shared.read()
        summary = work.run(resume=folder.config.is_file())
        if not summary["finished"] or not FIRST:
            return None
        shared.write(summary)
    outcome = {"state": "finished", **_figures(summary, config), "configuration": job.config}
    if job.linear:
        outcome.update(_linear(work, folder))
    return outcome


def _figures(summary: dict[str, Any], config: Config) -> dict[str, Any]:
    """What the tables are made of; shares are 0 to 1, times in seconds."""
    names = ("steps", "epochs", "images", "loss", "pretext_accuracy", "knn_top1", *BASELINES, "knn_protocol")
    figures = {name: summary.get(name) for name in (*names, "training_seconds", "peak_memory_bytes", "versions")}
    seen = summary["steps"] * config.batch_size
    return {**figures, "images_per_second": seen / max(summary["training_seconds"], 1e-9)}


def _linear(work: Pretraining, folder: RunFolder) -> dict[str, Any]:
    from moco.ablation.probe import HOW, linear_probe
    from moco.monitoring import prepare
    from moco.training.execution import expected_device

    load, config = work.workload, work.config
    if load.test is None or load.held_out is None:  # no labels
        return {"linear_top1": None}
    monitoring = prepare(
        load.source,
        load.pretraining,
        load.test,
        load.held_out,
        config=config,
        recipe=work.recipe,
        skipped=SkippedFiles(),
        most=work.figure_images,
    )
    return {**linear_probe(folder, monitoring, expected_device(config)), "linear_protocol": HOW}


class _Shared:
    """Figures of raw pixels and of the network before training: the same for many runs of a grid, computed once."""

    def __init__(self, job: Job, config: Config) -> None:
        facts = {name: getattr(config, name) for name in (*_START, *_QUESTION)}
        digest = hashlib.sha256(json.dumps([job.data, facts], sort_keys=True).encode()).hexdigest()[:16]
        self._file = Path(job.baselines) / f"{digest}.json"

    def read(self) -> dict[str, float] | None:
        return read_json(self._file)

    def write(self, summary: dict[str, Any]) -> None:
        figures = {name: summary[name] for name in BASELINES}
        if None not in figures.values() and not self._file.exists():
            write_json(self._file, figures)


def _end_with_parent() -> None:
    """Ask this process to stop once nobody holds the other end of its standard input."""
    while os.read(0, 4096):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
