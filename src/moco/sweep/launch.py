"""Jobs in processes of their own, by `multiprocessing` on this machine or by submitit on a SLURM cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from moco.data.workers import worker_init
from moco.errors import ConfigError, RunError
from moco.sweep.settings import Settings
from moco.training.stop import StopRequest

PAUSE = 0.2  # seconds between two looks at the jobs
Submit = Callable[..., Any]  # returns a `Started`, or a future of submitit's


def launcher(settings: Settings) -> Submit:
    """Takes a function of a module and its arguments, starts it in a new process, returns a future.

    Raises:
        ConfigError: submitit is not installed, or refuses the options.
    """
    return start_here if settings.launcher == "local" else _slurm(settings.out / "slurm", settings.slurm)


class ProcessEndedError(Exception):
    """A process ended before its function did."""


class Started:
    """A function at work in a process of its own on this machine, as a future.

    A pool of `concurrent.futures` has semaphores with names, which stay in the system when all its processes are
    killed; a process with a pipe has none.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # every run begins afresh
        self._answers, answers = context.Pipe(duplex=False)
        self._process = context.Process(target=_answer, args=(answers, function, *arguments))
        self._process.start()
        answers.close()
        self._answer: tuple[Any, Exception | None] | None = None

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        if self._answer is None and (self._answers.poll() or not self._process.is_alive()):
            self._answer = self._received()
        return self._answer is not None

    def result(self) -> Any:
        """What the function returned, once it has ended."""
        return self._ended()[0]

    def exception(self) -> Exception | None:
        """Its exception in words, or `ProcessEndedError`; None if there was none."""
        return self._ended()[1]

    def _ended(self) -> tuple[Any, Exception | None]:
        while not self.done():
            time.sleep(PAUSE)
        assert self._answer is not None
        return self._answer

    def _received(self) -> tuple[Any, Exception | None]:
        try:
            if not self._answers.poll():  # further processes of its own may hold the pipe
                raise EOFError
            result, error = self._answers.recv()
        except (EOFError, OSError):
            self._process.join()
            return None, ProcessEndedError(_in_words(self._process.exitcode or 0))
        self._process.join()
        return result, None if error is None else RunError(error)


start_here = Started


def _in_words(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _answer(answers: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    """In the new process. As the workers of a DataLoader: Ctrl-C is for the process that leads, and no process outlives
    it.
    """
    worker_init(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore with a name in a process that was spawned
    try:
        answers.send((function(*arguments), None))
    except Exception as error:
        answers.send((None, " ".join(f"{type(error).__name__}: {error}".split())))


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)  # the run's folder holds what is needed to go on


def _slurm(folder: Path, options: Mapping[str, Any]) -> Submit:
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("launcher='slurm' needs submitit: pip install 'moco-contrast[slurm]'") from error
    parameters = {"name": "moco", **options}
    try:
        executor = submitit.AutoExecutor(folder, cluster=parameters.pop("cluster", "slurm"))
        executor.update_parameters(**parameters)
    except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
        raise ConfigError(f"submitit refuses slurm={dict(options)}: {str(error).splitlines()[0]}") from error
    return executor.submit  # type: ignore[no-any-return]


def interrupt() -> None:
    """End at once what is at work."""
    raise KeyboardInterrupt


def run_all(
    submit: Submit,
    tasks: Mapping[str, tuple[Any, ...]],
    *,
    ended: Callable[[str, Any], None],
    jobs: int = 1,
    may_start: Callable[[], bool] = lambda: True,
    stop: Callable[[], None] = interrupt,
    watch: Callable[[list[str]], None] = lambda names: None,
) -> bool:
    """Run named calls, `jobs` side by side, until all have ended or may not start; False when Ctrl-C came.

    `stop` is called on the first Ctrl-C: it makes the calls at work end soon. On a second one local processes are
    killed. `ended` is called with the name and the future of each, `watch` with the names at work.
    """
    waiting, active = list(tasks), dict[str, Any]()
    others = set(multiprocessing.active_children())
    try:
        with StopRequest(watched=False) as request:  # runs at work end at their own next step
            while active or (waiting and may_start() and not request.came):
                while waiting and len(active) < jobs and may_start() and not request.came:
                    name = waiting.pop(0)
                    active[name] = submit(*tasks[name])
                if request.came:
                    stop()
                for name in [name for name, future in active.items() if future.done()]:
                    ended(name, active.pop(name))
                watch(list(active))
                time.sleep(PAUSE)
            return not request.came
    except KeyboardInterrupt:
        return False
    finally:
        for process in set(multiprocessing.active_children()) - others if active else ():
            process.kill()
