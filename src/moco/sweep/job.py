"""What a process of a grid does: train one run, or go on with it, and evaluate; or measure how fast runs are."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.atomic import is_of_the_disk, write_json
from moco.config import Config
from moco.errors import MocoError
from moco.recipes import configure
from moco.sweep.folder import read_json
from moco.training.callbacks import Callback
from moco.training.images import open_images

if TYPE_CHECKING:
    from moco.training.loop import Training

PILOT_STEPS = 10
_FURTHER_RANK = "MOCO_GRID_RUN"  # tells the processes that a run starts for its further devices which run it is
_MAY_CHANGE = ("workers", "cache_gib", "checkpoint_minutes", "data_root")


@dataclasses.dataclass(frozen=True)
class Commands:
    """`moco.pretrain` and `moco.evaluate`, which live above this room; processes get them by name."""

    pretrain: Callable[..., Any]
    evaluate: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Job(Callback):
    """One run to train and to evaluate; as a callback it ends the run with a checkpoint when the job is over."""

    data: str | None  # as the user gave it
    config: Config
    folder: Path  # of the run
    linear: bool  # whether a linear probe follows
    call: tuple[Path, str]  # file that names the call that wants the job, and what it must hold
    deadline: float  # time.time() after which the job ends with a checkpoint

    @property
    def over(self) -> bool:
        """Whether to end now: out of time, or the call has been stopped."""
        file, name = self.call
        return time.time() >= self.deadline or not file.is_file() or file.read_text(encoding="utf-8") != name

    def on_step_end(self, training: Training) -> None:
        """End the run at this step if the job is over."""
        training.stop = training.stop or self.over


def carry_out(job: Job, commands: Commands) -> str | None:
    """Do what is left of a job; a failure is written to failed.json. One of the disk is none of the run's: it is
    returned in words.
    """
    try:
        summary = read_json(job.folder / "summary.json")
        if not job.over and not (summary and summary["finished"]):
            resume = (job.folder / "config.yaml").is_file()
            if not resume:  # what a process leaves that was killed before its first step
                shutil.rmtree(job.folder, ignore_errors=True)
            _pretrain(commands, job.data, job.config, job.folder, resume, job)
        if job.linear and not job.over:
            write_json(job.folder / "probe.json", _linear_probe(job, commands))
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        if is_of_the_disk(error):
            return said[0]
        reason = said[0] if isinstance(error, MocoError) else f"{type(error).__name__}: {said[0]}"
        write_failure(job.folder, reason, traceback.format_exc())
    return None


def write_failure(folder: Path, reason: str, details: str = "") -> None:
    """Leave a word in a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "failed.json", {"reason": reason, "details": details})


def _pretrain(
    run: Commands, data: str | None, config: Config, folder: Path, resume: bool = False, *callbacks: Callback
) -> Any:
    if config.devices > 1:
        given = {"data": data, "config": dataclasses.asdict(config), "folder": str(folder), "resume": resume}
        os.environ[_FURTHER_RANK] = json.dumps(given)
    options: dict[str, Any] = {"config": config}
    if resume:
        allowed = ":" in config.backbone  # it is the one that the grid was called with
        options = {"resume": True, "allow_factory": allowed, **{name: getattr(config, name) for name in _MAY_CHANGE}}
    return run.pretrain(data, out=folder, quiet=True, callbacks=callbacks, **options)


def join_run(commands: Commands) -> bool:
    """In a process that a run has started for a further device: take part in the run. False in any other process."""
    text = os.environ.get(_FURTHER_RANK)
    if text is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return False
    run = json.loads(text)
    config = configure(run["config"]["recipe"], run["config"], strict=False)
    _pretrain(commands, run["data"], config, Path(run["folder"]), run["resume"])
    return True


def _linear_probe(job: Job, commands: Commands) -> dict[str, Any]:
    """Top-1 accuracy, 0 to 1, on the images of the run's own kNN figure; None without labels."""
    images = open_images(job.data, job.config)
    if images.test is None or images.held_out is None:
        return {"linear_top1": None}
    report = commands.evaluate(
        job.folder,
        protocol="linear",
        train=images.source.subset(images.pretraining),
        test=images.test.subset(images.held_out),
        baselines="none",
        seed=job.config.seed,
        quiet=True,
    )
    how = next(row.how for row in report.rows if row.measure == "linear_top1")
    return {"linear_top1": report.value("linear_top1"), "linear_protocol": how}


def pilot(data: str | None, config: Config, folder: Path, commands: Commands) -> float:
    """Images per second of a few steps, by the run's own summary."""
    length = {"steps": PILOT_STEPS, "epochs": None, "warmup_steps": 0, "warmup_epochs": 0}
    few = dataclasses.replace(config, **length, knn_evaluations=0)  # type: ignore[arg-type]
    return float(_pretrain(commands, data, few, folder).summary["images_per_second"])
