"""From settings to finished tables: plan, budget, runs, results."""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
import uuid
from typing import Any, Literal

from tqdm import tqdm

from moco.config import Config
from moco.data.workers import cores
from moco.errors import BrokenOffError, ConfigError, RunError
from moco.printable import printable
from moco.recipes import configure
from moco.sweep.folder import GOES_ON, GridFolder
from moco.sweep.job import PILOT_STEPS, Commands, Job, carry_out, pilot, write_failure
from moco.sweep.launch import ProcessEndedError, Submit, launcher, run_all, start_here
from moco.sweep.plan import Plan, Planned, make_plan
from moco.sweep.plot import NO_PICTURES, can_draw
from moco.sweep.report import Ablation, write
from moco.sweep.settings import Settings
from moco.training.images import open_images

Ending = Literal["planned", "finished", "unfinished", "interrupted"]


@dataclasses.dataclass
class Grid:
    """One call of `moco ablate` at work; `start` is time.time() when it began."""

    settings: Settings
    folder: GridFolder
    plan: Plan
    commands: Commands
    start: float

    @classmethod
    def prepare(cls, settings: Settings, commands: Commands) -> Grid:
        """Everything checked and nothing written.

        Raises:
            MocoError: options, data or a folder that cannot be used.
        """
        start, folder = time.time(), GridFolder(settings.out)
        folder.check(settings.shared)
        images = len(open_images(settings.data, configure(*settings.base)).pretraining)
        plan = make_plan(settings, images, folder.configs())
        several = max(run.config.devices * run.config.num_nodes for run in plan.runs)
        if several > 1 and (settings.launcher == "slurm" or any(run.config.num_nodes > 1 for run in plan.runs)):
            raise ConfigError(f"a run on {several} devices: a grid takes those of one node, with launcher local")
        return cls(settings, folder, plan, commands, start)

    def carry_out(self) -> Ablation:
        """Measure, say the budget, run what is open, write the results."""
        if self.settings.dry_run:
            return Ablation(self.folder.path, "planned", (), self.plan, self._budget(self._open()))
        submit = launcher(self.settings)
        with self.folder.at_work(self.settings.shared):
            for run in self.plan.runs if self.settings.retry_failed else ():
                (self.folder.run(run.name) / "failed.json").unlink(missing_ok=True)
            todo = self._open()
            budget = self._budget(todo)
            self._say(budget)
            ending = self._run(todo, submit) if todo else "finished"
            result = write(self.settings, self.folder, self.plan, ending, budget)
        self._say("\n".join([*map(str, result.files), *([] if can_draw() else [NO_PICTURES])]))
        return result

    def _open(self) -> list[Planned]:
        return [run for run in self.plan.runs if self.folder.is_open(run, linear=self.settings.linear)]

    def _budget(self, todo: list[Planned]) -> str:
        """What is to come, measured first where that has not been done yet."""
        settings, done = self.settings, len(self.plan.runs) - len(todo)
        points = sum(len(study.points) for study in self.plan.studies)
        seeds = f"seed{'s' * (len(settings.seeds) > 1)} {', '.join(map(str, settings.seeds))}"
        heading = f"{len(self.plan.runs)} runs ({points} points, {seeds})" + (f", {done} of them done" if done else "")
        if not todo:
            return f"{heading}: nothing is left to run"
        lines = [f"  {run.name}: {run.steps:,} steps of {run.config.batch_size}" for run in todo]
        if settings.launcher == "local":  # other machines are not measured here
            rate, basis = self._rate(todo)
            images = sum((run.steps - self.folder.steps_done(run)) * run.config.batch_size for run in todo)
            jobs = min(settings.jobs, len(todo))
            cost = f"about {spell(images / rate / jobs)} of training" if rate else "no estimate"
            lines.append(f"{cost}, {jobs} side by side, by {basis}; start and evaluation come on top")
        limit = [f"this call stops after {settings.minutes:g} min"] if settings.minutes else []
        return "\n".join([f"{heading}, to run:", *lines, *limit])

    def _rate(self, todo: list[Planned]) -> tuple[float | None, str]:
        """Images per second of a run, and how they are known: from finished runs, else from a pilot.

        Raises:
            RunError: the process of the pilot was ended.
        """
        done = [figures["images_per_second"] for run in self.plan.runs if (figures := self.folder.figures(run))]
        if done:
            return statistics.fmean(done), f"the mean of {len(done)} finished runs"
        run, ended = todo[0], list[Any]()
        basis = f"{PILOT_STEPS} steps of {run.name} alone"
        self._say(f"measuring {basis} ...")
        with self.folder.scratch(held=not self.settings.dry_run) as scratch:
            call = (pilot, self.settings.data, self._shared(run.config), scratch, self.commands)
            run_all(start_here, {run.name: call}, ended=lambda name, future: ended.append(future))
        if not ended:
            raise KeyboardInterrupt
        error = ended[0].exception()
        if isinstance(error, ProcessEndedError):
            raise RunError(
                f"the process of the pilot was ended ({error}): is there memory enough, and is ablate called under "
                'if __name__ == "__main__"?'
            )
        if error is not None:  # the run will say it for itself
            return None, f"{basis}, which failed"
        return ended[0].result(), f"{basis} ({ended[0].result():,.0f} images/s)"

    def _run(self, todo: list[Planned], submit: Submit) -> Ending:
        settings, call = self.settings, (self.folder.call, uuid.uuid4().hex)
        limit = math.inf if settings.minutes is None else 60 * settings.minutes
        deadline = self.start + limit
        last_start = deadline - min(20.0, 0.1 * limit)  # a run that starts later would come to its first step only
        call[0].write_text(call[1], encoding="utf-8")
        tasks = {}
        for run in todo:
            config, folder = self._shared(run.config), self.folder.run(run.name)
            job = Job(settings.data, config, folder, settings.linear, call, deadline)
            tasks[run.name] = (carry_out, job, self.commands)
        with self._bar(todo) as bar:

            def watch(names: list[str]) -> None:
                bar.set_description_str(", ".join(names), refresh=False)
                bar.update(sum(self.folder.steps_done(run) * run.config.batch_size for run in todo) - bar.n)

            going_on = run_all(
                submit,
                tasks,
                jobs=settings.jobs,
                may_start=lambda: time.time() < last_start,
                stop=lambda: call[0].unlink(missing_ok=True),
                ended=self._ended,
                watch=watch,
            )
        return "interrupted" if not going_on else "unfinished" if self._open() else "finished"

    def _bar(self, todo: list[Planned]) -> Any:
        images = sum(run.steps * run.config.batch_size for run in todo)
        every = 0.5 if sys.stderr.isatty() else 30.0  # seconds
        return tqdm(total=images, unit="img", unit_scale=True, mininterval=every, disable=self.settings.quiet)

    def _ended(self, name: str, future: Any) -> None:
        """A process that could say nothing itself has failed: out of memory, killed, a broken installation.

        Raises:
            BrokenOffError: the disk took no more.
        """
        error = future.exception()
        if error is None and (full := future.result()) is not None:
            raise BrokenOffError(f"{full}; {GOES_ON}")
        if error is not None:
            said = str(error) if isinstance(error, ProcessEndedError) else ": " + str(error).strip().splitlines()[0]
            write_failure(self.folder.run(name), f"its process ended {said}".replace(" :", ":"))

    def _shared(self, config: Config) -> Config:
        """With the cores of this machine shared among the runs that work side by side."""
        if self.settings.jobs == 1 or self.settings.launcher != "local":
            return config
        share = max(1, cores() // self.settings.jobs)
        threads, workers = config.threads or share, share if config.workers is None else config.workers
        return dataclasses.replace(config, threads=threads, workers=workers)

    def _say(self, message: str) -> None:
        if not self.settings.quiet:
            print(printable(message), file=sys.stderr)


def spell(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
