"""Runs as processes of their own, some side by side: started, followed, stopped. Loads without PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moco.ablation.store import read_json
from moco.errors import RunError
from moco.hardware import SETTINGS
from moco.training.interrupt import StopRequest

PAUSE = 0.2  # seconds between two looks at the processes
PATIENCE = 120.0  # seconds that a process may take to write its checkpoint
LEAST = 20.0  # seconds left below which no run is started, and at most this share of the time
LEAST_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Task:
    """One process to come.

    Attributes:
        name: of the run.
        command: arguments after the Python interpreter.
        log: file for what it says.
        threads: of its tensor operations.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    threads: int


@dataclasses.dataclass
class Active:
    """A process at work."""

    task: Task
    process: subprocess.Popen[bytes]

    def ask_to_stop(self) -> None:
        """It ends at its next step, with a checkpoint."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self.process.terminate()
            else:
                self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """It ends at once, if it has not yet."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Pool:
    """Runs tasks, at most `jobs` at a time, until all are done, Ctrl-C, or the deadline.

    Args:
        jobs: processes side by side.
        deadline: time.monotonic() at which the tasks at work are asked to stop; None for none.
        ended: called with the name of a task and the exit code of its process, once for each that was not asked to
            stop.
        watch: called with the names of the tasks at work, a few times a second.
    """

    def __init__(
        self,
        *,
        jobs: int,
        deadline: float | None,
        ended: Callable[[str, int], None],
        watch: Callable[[list[str]], None],
    ) -> None:
        self.jobs, self.deadline, self.ended, self.watch = jobs, deadline, ended, watch
        self.interrupted = False
        self.out_of_time = False
        self._least = min(LEAST, LEAST_SHARE * self._left())
        self._active: list[Active] = []

    def run(self, tasks: Sequence[Task]) -> None:
        """Do them in order; `interrupted` and `out_of_time` say why it ended early."""
        waiting = list(tasks)
        try:
            with StopRequest() as stop:
                while self._active or waiting:
                    self._collect()
                    self.interrupted = stop.asked
                    self.out_of_time = self.out_of_time or (bool(waiting or self._active) and self._left() <= 0)
                    if self.interrupted or self.out_of_time:
                        self._stop_all()
                        return
                    self._start(waiting)
                    self.watch([active.task.name for active in self._active])
                    time.sleep(PAUSE)
        except KeyboardInterrupt:  # the second Ctrl-C
            self.interrupted = True
        finally:
            for active in self._active:
                active.close()

    def _left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def _start(self, waiting: list[Task]) -> None:
        while waiting and len(self._active) < self.jobs:
            if self._left() < self._least:
                if not self._active:
                    self.out_of_time = True
                    waiting.clear()
                return
            task = waiting.pop(0)
            self._active.append(Active(task, start(task.command, task.log, task.threads)))

    def _collect(self) -> None:
        for active in list(self._active):
            code = active.process.poll()
            if code is not None:
                self._active.remove(active)
                active.close()
                self.ended(active.task.name, code)

    def _stop_all(self) -> None:
        for active in self._active:
            active.ask_to_stop()
        end = time.monotonic() + PATIENCE
        while self._active and time.monotonic() < end:
            for active in list(self._active):
                if active.process.poll() is not None:
                    self._active.remove(active)
                    active.close()
                    if active.process.returncode == 0:  # it was just about to end
                        self.ended(active.task.name, 0)
            time.sleep(PAUSE)


def start(command: Sequence[str], log: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start Python on the same `moco`, out of reach of the terminal's Ctrl-C; it sees its standard input end when this
    process is gone.
    """
    environment = dict(os.environ)
    source = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environment.get("PYTHONPATH")]))
    environment["OMP_NUM_THREADS"] = str(threads)
    for variable, value in SETTINGS.items():  # which are read when PyTorch is loaded, before the worker can say so
        environment.setdefault(variable, value)
    environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647")
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def ask(module: str, request: dict[str, Any], *, copies: int, threads: int) -> list[dict[str, Any]]:
    """Reports of so many processes of a module that work side by side on one request.

    Raises:
        RunError: one has failed; the message has its last line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        active, reports = [], [Path(scratch) / f"report{number}.json" for number in range(copies)]
        try:
            for number, report in enumerate(reports):
                file = Path(scratch) / f"request{number}.json"
                file.write_text(json.dumps({**request, "report": str(report), "started": time.time()}))
                command = ("-m", module, str(file))
                task = Task(report.name, command, Path(scratch) / f"log{number}", threads)
                active.append(Active(task, start(command, task.log, threads)))
            for one in active:
                if one.process.wait() != 0:
                    raise RunError(f"the measurement before the start failed: {last_line(one.task.log)}")
        finally:
            for one in active:
                one.close()
        return [read_json(report) or {} for report in reports]


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return re.sub(r"^moco\.errors\.\w+: ", "", lines[-1].strip()) if lines else "it said nothing"
