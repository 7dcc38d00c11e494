"""Jobs in processes of their own, by `concurrent.futures` on this machine or by submitit on a SLURM cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from moco.data.workers import worker_init
from moco.errors import ConfigError
from moco.sweep.settings import Settings
from moco.training.stop import StopRequest

PAUSE = 0.2  # seconds between two looks at the jobs
Submit = Callable[..., Any]  # returns a future: concurrent.futures' or submitit's


def launcher(settings: Settings) -> Submit:
    """Takes a function of a module and its arguments, starts it in a new process, returns a future.

    Raises:
        ConfigError: submitit is not installed, or refuses the options.
    """
    return start_here if settings.launcher == "local" else _slurm(settings.out / "slurm", settings.slurm)


def start_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a function in a process of its own on this machine; returns a future."""
    # A pool for each job: one that is killed (out of memory) breaks its own only, and every run begins afresh.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_initialize)
    future = pool.submit(function, *arguments)
    pool.shutdown(wait=False)
    return future


def _initialize() -> None:
    """As the workers of a DataLoader: Ctrl-C is for the process that leads, and no process outlives it."""
    worker_init(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


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
        with StopRequest(watched=False) as signal:  # runs at work end at their own next step
            while active or (waiting and may_start() and not signal.came):
                while waiting and len(active) < jobs and may_start() and not signal.came:
                    name = waiting.pop(0)
                    active[name] = submit(*tasks[name])
                if signal.came:
                    stop()
                for name in [name for name, future in active.items() if future.done()]:
                    ended(name, active.pop(name))
                watch(list(active))
                time.sleep(PAUSE)
            return not signal.came
    except KeyboardInterrupt:
        return False
    finally:
        for process in set(multiprocessing.active_children()) - others if active else ():
            process.kill()
