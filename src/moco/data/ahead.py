"""Work on the next steps while the current one runs, in threads that keep to one core each."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from moco.hardware import cores

PREFETCH = 3  # steps worked on ahead: enough to cover a slow disk, little memory
MOST_WORKERS = 16

Result = TypeVar("Result")
Begun = tuple[Callable[[], Result], list["Future[None]"]]  # what gives the result, once these have ended


def default_workers() -> int:
    """One thread for each core that this process may use, at most 16."""
    return min(MOST_WORKERS, cores())


def ahead(
    first_step: int, begin: Callable[[int, ThreadPoolExecutor], Begun[Result]], *, workers: int, spread: bool = False
) -> Generator[Result]:
    """The result of each step from the first one on, without end; close the generator to free its threads.

    `begin` hands a step's tasks to the pool. Each thread computes on one core: a team of threads for each operation of
    each worker would keep one another waiting. `spread` gives each its own core, in turn, if there are workers for all
    cores: where the encoder computes on all of them and waits for the slowest, threads that gather on one cost it twice
    their time.
    """
    cores = places(workers) if spread else iter(())
    pool = ThreadPoolExecutor(
        workers, thread_name_prefix="moco-data", initializer=lambda: keep_to_one_core(next(cores, None))
    )
    begun: deque[Begun[Result]] = deque()
    try:
        for step in itertools.count(first_step):
            with torch.inference_mode(False):  # the threads write into what is made here, and they are not in it
                begun.append(begin(step, pool))
            if len(begun) > PREFETCH:
                result, tasks = begun.popleft()
                for task in tasks:
                    task.result()
                yield result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def places(workers: int) -> Iterator[int]:
    """Cores in turn; none where some would have no worker, so that others would be burdened for good."""
    if not hasattr(os, "sched_getaffinity"):
        return iter(())
    allowed = sorted(os.sched_getaffinity(0))
    return itertools.cycle(allowed if workers >= len(allowed) else ())


def keep_to_one_core(core: int | None) -> None:
    """Let this thread compute on one core, and on this one if it is named."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # reads the process's number once a thread; from here on this thread keeps its own
    if core is not None:
        with contextlib.suppress(OSError):  # forbidden here: the system places the thread
            os.sched_setaffinity(0, {core})  # 0: this thread
