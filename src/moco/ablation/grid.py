"""From settings to finished tables: plan, budget, runs, results."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any, Literal

from moco.ablation.budget import Rates, network, spell, to_measure, wall_seconds
from moco.ablation.plan import OPERATIONAL, Plan, Planned, make_plan
from moco.ablation.plot import NO_PICTURES, can_draw
from moco.ablation.processes import Pool, Task, ask, last_line
from moco.ablation.progress import Progress
from moco.ablation.report import Ablation, write
from moco.ablation.settings import Settings
from moco.ablation.store import Store, last_step, write_json
from moco.data.workers import cores
from moco.errors import ConfigError
from moco.recipes import configure

Ending = Literal["planned", "finished", "unfinished", "interrupted"]


@dataclasses.dataclass
class Grid:
    """One call of `moco ablate` at work.

    Attributes:
        settings: what was asked.
        store: the folder.
        plan: the runs.
        start: time.monotonic() when the call began.
        rates: what was measured, once it is.
        taken: precision, layout and compile of each network.
    """

    settings: Settings
    store: Store
    plan: Plan
    start: float
    rates: Rates | None = None
    taken: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def prepare(cls, settings: Settings) -> Grid:
        """Everything checked and nothing written.

        Raises:
            MocoError: options, data or a folder that cannot be used.
        """
        start = time.monotonic()
        store = Store(settings.out)
        store.check_base(_asked(settings))
        images = count_images(settings)
        then = store.noted("images")
        if then not in (None, images):
            raise ConfigError(
                f"{store.path} was begun with {then:,} images, now there are {images:,}: choose another out"
            )
        plan = store.settle(make_plan(settings, images))
        return cls(settings, store, plan, start, taken=store.noted("taken") or {})

    @property
    def threads(self) -> int:
        """CPU threads of a run, where the options do not say."""
        return max(1, cores() // self.settings.jobs)

    def carry_out(self) -> Ablation:
        """Measure, say the budget, run what is open, write the results."""
        if self.settings.dry_run:
            budget = self._budget(self._open())
            return Ablation(self.store.path, "planned", (), self.plan, budget)
        self.store.take()
        try:
            self.store.note(asked=_asked(self.settings), images=self.plan.base.images)
            self._forget_failures()
            todo = self._open()
            budget = self._budget(todo)
            self._say(budget)
            ending = self._run(todo) if todo else "finished"
            result = write(self.settings, self.store, self.plan, ending, budget)
        finally:
            self.store.close()
        self._say("\n".join([*map(str, result.files), *([] if can_draw() else [NO_PICTURES])]))
        return result

    def _open(self) -> list[Planned]:
        linear = self.settings.linear
        return [run for run in self.plan.runs if self.store.state(run, linear=linear) not in ("finished", "failed")]

    def _forget_failures(self) -> None:
        for run in self.plan.runs if self.settings.retry_failed else ():
            if self.store.state(run, linear=False) == "failed":
                self.store.outcome_file(run.name).unlink()

    def _budget(self, todo: list[Planned]) -> str:
        """What is to come, measured first where that has not been done yet."""
        done = len(self.plan.runs) - len(todo)
        points = sum(len(study.points) for study in self.plan.studies)
        seeds = f"seed{'s' * (len(self.settings.seeds) > 1)} {', '.join(map(str, self.settings.seeds))}"
        heading = f"{len(self.plan.runs)} runs ({points} points, {seeds})"
        heading += f", {done} of them done" if done else ""
        if not todo:
            return f"{heading}: nothing is left to run"
        self._measure(todo)
        assert self.rates is not None
        expected = self._expected(todo)
        lines = [f"  {run.name}: {self._cost(run)}, {spell(expected[run.name])}" for run in todo]
        jobs = self.settings.jobs
        side = f", {jobs} side by side" if jobs > 1 else ""
        whole = wall_seconds(list(expected.values()), jobs)
        unknown = any(self.rates.seconds_per_step(run.config) is None for run in todo)
        side += ", without the training whose time is not known" if unknown else ""
        limit = f"; this call stops after {self.settings.minutes:g} min" if self.settings.minutes else ""
        return "\n".join([f"{heading}, to run:", *lines, f"about {spell(whole)} in all{side}{limit}"])

    def _cost(self, run: Planned) -> str:
        assert self.rates is not None
        seconds, batch = self.rates.seconds_per_step(run.config), run.config.batch_size
        rate = "time not known" if seconds is None else f"{batch / seconds:,.0f} images/s"
        return f"{run.steps:,} steps of {batch}, {rate}"

    def _measure(self, todo: list[Planned]) -> None:
        jobs, configs = self.settings.jobs, to_measure(todo)
        stored = (self.store.noted("rates") or {}).get(str(jobs))
        self.rates = Rates.from_dict(stored) if stored else None
        if self.rates is not None and self.rates.covers([run.config for run in todo]):
            return
        self._say(f"measuring the kinds of run that there are ({len(configs)}) ...")
        request = {
            "data": self.settings.data,
            "configs": [self._job_config(run_config) for run_config in configs],
            "taken": self.taken,
        }
        reports = ask("moco.ablation.measure", request, copies=min(jobs, len(todo)), threads=self.threads)
        self.rates = Rates.read(configs, reports)
        self.taken = reports[0]["taken"]
        if not self.settings.dry_run:
            rates = {**(self.store.noted("rates") or {}), str(jobs): self.rates.as_dict()}
            self.store.note(rates=rates, taken=self.taken, hardware=reports[0]["hardware"])

    def _expected(self, todo: list[Planned]) -> dict[str, float]:
        """Seconds that each run will take, the rest of those that have begun."""
        assert self.rates is not None
        expected, seen = {}, set()
        for run in todo:
            left = run.steps - self.store.steps_done(run.name)
            first = (network(run.config), run.config.seed) not in seen and left == run.steps
            seen.add((network(run.config), run.config.seed))
            evaluation = self.rates.evaluation_seconds(linear=self.settings.linear, first=first)
            training = left * (self.rates.seconds_per_step(run.config) or 0.0)
            expected[run.name] = self.rates.start_seconds + training + evaluation
        return expected

    def _run(self, todo: list[Planned]) -> Ending:
        settings, expected = self.settings, self._expected(todo)
        progress = Progress(
            expected,
            dict.fromkeys(expected, 0.0),
            runs=len(self.plan.runs),
            jobs=settings.jobs,
            show=not settings.quiet,
        )
        begun = {run.name: self.store.steps_done(run.name) for run in todo}

        def share(name: str) -> float:
            whole = self.plan.named(name).steps - begun[name]
            return (last_step(self.store.run(name) / "metrics.jsonl") - begun[name]) / max(whole, 1)

        def ended(name: str, code: int) -> None:
            self._note_crash(name, code)
            progress.finish(name)

        deadline = None if settings.minutes is None else self.start + 60 * settings.minutes
        pool = Pool(
            jobs=settings.jobs, deadline=deadline, ended=ended, watch=lambda active: progress.show(active, share)
        )
        try:
            pool.run([self._task(run) for run in todo])
        finally:
            progress.close()
        if pool.interrupted:
            return "interrupted"
        return "unfinished" if pool.out_of_time else "finished"

    def _note_crash(self, name: str, code: int) -> None:
        """A process that ended without an outcome has failed: out of memory, killed, a broken installation."""
        if self.store.outcome(name) is None:
            said = last_line(self.store.log_file(name))
            how = f"by signal {-code}" if code < 0 else f"with code {code}"
            reason = f"its process ended {how}: {said}"
            write_json(self.store.outcome_file(name), {"state": "failed", "reason": reason})

    def _task(self, run: Planned) -> Task:
        job = self.store.path / "outcomes" / f"{run.name}.job.json"
        content = {
            "data": self.settings.data,
            "config": self._job_config(run.config),
            "folder": str(self.store.run(run.name)),
            "outcome": str(self.store.outcome_file(run.name)),
            "baselines": str(self.store.path / "baselines"),
            "linear": self.settings.linear,
        }
        write_json(job, content)
        return Task(run.name, ("-m", "moco.ablation.worker", str(job)), self.store.log_file(run.name), self.threads)

    def _job_config(self, config: Any) -> dict[str, Any]:
        """The configuration as plain data: how it computes is settled, cores are shared among the runs."""
        taken = self.taken.get(network(config), {})
        stated = dataclasses.asdict(config)
        if config.threads is None:
            stated["threads"] = self.threads
        if config.workers is None and self.settings.jobs > 1:
            stated["workers"] = self.threads
        stated["lr_milestones"] = list(config.lr_milestones)
        return {**stated, **taken}

    def _say(self, message: str) -> None:
        if not self.settings.quiet:
            print(message, file=sys.stderr)


def count_images(settings: Settings) -> int:
    """How many images the runs learn from.

    Raises:
        DataError, ConfigError: images that cannot be used.
    """
    from moco.workload import open_workload

    return len(open_workload(settings.data, configure(*settings.base)).pretraining)


def _asked(settings: Settings) -> dict[str, Any]:
    """What must be the same in every call for one folder."""
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.options.items()
        if name not in OPERATIONAL
    }
    return {"data": settings.data, "recipe": settings.base[0], "options": options}
