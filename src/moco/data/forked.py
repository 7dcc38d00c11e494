"""Work on the next steps while the current one runs, in processes of one thread each.

Two threads of one process that make views wait for each other's interpreter lock at each of some hundred operations a
part, and are no faster together than one; a thread that only starts a GPU's operations loses most of its speed beside
them (docs/log.md). A process that is forked has the images, and what is kept of them in shared memory, without a copy.
It touches no GPU and starts no threads; `hardware.can_fork` says where that is safe.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from typing import Any, Literal, NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from moco import errors
from moco.data.ahead import PREFETCH, keep_to_one_core, places
from moco.data.plans import StepPlan, Views
from moco.data.shared import shared_zeros
from moco.data.skipped import SkippedFiles
from moco.hardware import give_back_freed_memory

SLOTS = PREFETCH + 1  # steps in memory: one with the caller, the others worked on ahead
# Beside an encoder on a CPU, processes begin with what it leaves of the cores: while its lanes wait for each other and
# for the optimiser, there is enough for views (docs/log.md). Where something else takes it, so that the caller waits
# for more than a tenth of so many steps, other processes follow with their full share; the system lets none rise again.
JUDGED_STEPS, LATE = 32, 0.1
# Beside an encoder on a GPU there is one thread here that starts its operations, wherever the system puts it: it goes
# first, and processes have no place of their own.
NICE = 10
Manner = Literal["idle", "full", "nice"]  # on what the encoder leaves of a core; on their share; anywhere, after others
Made = tuple[np.ndarray, Views]


class Slots:
    """Memory that processes share for the results and source indices of `SLOTS` steps.

    Args:
        shape: of a step's results in memory, (V, N, size, size, 3).
        dtype: of their elements.
        present: what a step's plan fills and its caller gets, as seen in that memory.

    Attributes:
        memory: all of it, (SLOTS, *shape).
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic], present: Callable[[Tensor], Views]) -> None:
        self.memory = torch.from_numpy(shared_zeros((SLOTS, *shape), dtype))
        self._indices = shared_zeros((SLOTS, shape[1]), np.int64)
        self._present = present

    @classmethod
    def of_views(cls, views: int, samples: int, size: int) -> Self:
        """Each view (N, 3, size, size) float32, channels-last."""
        shape = (views, samples, size, size, 3)
        return cls(shape, np.float32, lambda memory: tuple(memory.permute(0, 1, 4, 2, 3).unbind()))

    @classmethod
    def of_crops(cls, views: int, samples: int, size: int) -> Self:
        """All views' crops in one tensor, (V, N, size, size, 3) uint8."""
        return cls((views, samples, size, size, 3), np.uint8, lambda memory: (memory,))

    def of(self, step: int) -> Made:
        """Source indices, (N,) int64, and results of a step."""
        return self._indices[step % SLOTS], self._present(self.memory[step % SLOTS])


def in_processes(
    first_step: int,
    plan: Callable[[int, Views], StepPlan],
    slots: Slots,
    skipped: SkippedFiles,
    *,
    workers: int,
    beside_encoder: bool,
) -> Generator[Made]:
    """Source indices and results of each step from the first one on, without end; they are overwritten after the next.

    Close the generator to end the processes; they also end by themselves when this process is gone.

    Args:
        first_step: where to begin.
        plan: makes the plan of a step, whose results lie in the views that it is given.
        slots: where they lie.
        skipped: damaged files that a process meets are added here.
        workers: processes; each has the same share of every step's parts.
        beside_encoder: whether these cores compute the encoder, too.

    Raises:
        MocoError: what a part raises; RunError where a process fails otherwise, or has been ended.
    """
    helpers, waiting = _Helpers(plan, slots, skipped, workers), _Waiting()
    try:
        helpers.start(first_step, "idle" if beside_encoder else "nice")
        for step in itertools.count(first_step):
            with waiting:
                helpers.take()
            indices, results = slots.of(step)
            yield indices.copy(), results
            if beside_encoder and waiting.too_long():
                helpers.end()
                helpers.start(step + 1, "full")
            else:
                helpers.allow()
    finally:
        helpers.end()


class _Waiting:
    """How long the caller waits for views, of the time that passes; too long is told once.

    The first step does not count, which nobody could have worked on ahead.
    """

    def __init__(self) -> None:
        self._steps, self._waited, self._since, self._told = -1, 0.0, 0.0, False

    def __enter__(self) -> None:
        self._asked = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._waited += time.perf_counter() - self._asked

    def too_long(self) -> bool:
        """Whether the steps since the last judgement were late."""
        self._steps += 1
        if self._told or 0 < self._steps < JUDGED_STEPS:
            return False
        now = time.perf_counter()
        self._told = self._steps > 0 and self._waited > LATE * (now - self._since)
        self._steps, self._waited, self._since = 0, 0.0, now
        return self._told


class _Helpers:
    """The processes, seen from the one that wants the views."""

    def __init__(self, plan: Callable[[int, Views], StepPlan], slots: Slots, skipped: SkippedFiles, count: int) -> None:
        self._plan, self._slots, self._skipped, self._count = plan, slots, skipped, count
        self._pipes: list[tuple[Connection, Connection]] = []
        self._processes: list[int] = []

    def start(self, first_step: int, manner: Manner) -> None:
        """Fork them and let them begin; beside an encoder each onto a core, where there is one for every core."""
        self._pipes = [multiprocessing.Pipe() for _ in range(self._count)]
        named = () if manner == "nice" else itertools.islice(places(self._count), self._count)
        cores: list[int | None] = [*named] or [None] * self._count
        give_back_freed_memory()
        for number, (core, (_, theirs)) in enumerate(zip(cores, self._pipes, strict=True)):
            process = _fork()
            if process == 0:
                others = [end for pipe in self._pipes for end in pipe if end is not theirs]
                worker = _Worker(number, self._count, theirs, self._slots, self._skipped)
                _serve(functools.partial(worker.run, self._plan, first_step), others, core, manner)
            self._processes.append(process)
            theirs.close()
        for _ in range(SLOTS):
            self.allow()

    def allow(self) -> None:
        """Let each work on one more step."""
        for connection, _ in self._pipes:
            with contextlib.suppress(OSError):  # it has ended: whoever waits for its answer says why
                connection.send_bytes(b"")

    def take(self) -> None:
        """Wait until each has done its share of the next step."""
        for (connection, _), process in zip(self._pipes, self._processes, strict=True):
            try:
                told: dict[str, Any] = json.loads(connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise errors.RunError(
                    f"a process that prepares images (number {process}) has ended, perhaps for want of memory: resume "
                    "the run, with fewer --workers if it happens again"
                ) from error
            for item, reason in told["skipped"]:
                self._skipped.add(item, reason)
            if "error" in told:
                kind, message = told["error"]
                raise getattr(errors, kind)(message)

    def end(self) -> None:
        """End them; whatever one is at work on, nobody wants it any more."""
        for connection, _ in self._pipes:
            connection.close()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
        self._processes.clear()


def _fork() -> int:
    with warnings.catch_warnings():
        # From Python 3.12 on a warning that locks of other threads may be held; the child asks for none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class _Worker:
    """A process's side.

    Args:
        number: of the process, 0 to workers - 1.
        workers: how many there are.
        connection: to the process that wants the views.
        slots: where they lie.
        skipped: this process's copy.
    """

    def __init__(self, number: int, workers: int, connection: Connection, slots: Slots, skipped: SkippedFiles) -> None:
        self._number, self._workers, self._connection, self._slots = number, workers, connection, slots
        self._skipped, self._told = skipped, set(skipped.items())

    def run(self, plan: Callable[[int, Views], StepPlan], first_step: int) -> None:
        """Make this process's share of each step for as long as somebody wants it."""
        for step in itertools.count(first_step):
            try:
                self._connection.recv_bytes()
            except (EOFError, OSError):
                return
            answer: dict[str, Any] = {}
            try:
                self._make(plan, step)
            except errors.MocoError as error:
                answer["error"] = (type(error).__name__, str(error))
            except Exception as error:  # whatever a damaged disk or a library raises is for the other side to report
                traceback.print_exc()
                answer["error"] = ("RunError", f"a process that prepares images failed: {error!r} (traceback above)")
            answer["skipped"] = self._news()
            with contextlib.suppress(OSError):  # nobody is there any more, as the next turn finds
                self._connection.send_bytes(json.dumps(answer).encode())

    def _make(self, plan: Callable[[int, Views], StepPlan], step: int) -> None:
        indices, views = self._slots.of(step)
        made = plan(step, views)
        for part in made.parts[(self._number + step) % self._workers :: self._workers]:
            made.make(part)
            indices[part] = made.indices[part]

    def _news(self) -> list[tuple[str, str]]:
        if self._skipped.count == len(self._told):
            return []
        news = [noted for noted in self._skipped.items() if noted not in self._told]
        self._told.update(news)
        return news


def _serve(run: Callable[[], None], others: list[Connection], core: int | None, manner: Manner) -> NoReturn:
    """What a forked process does; it never comes back."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # for the process that wants the views; this one ends with it
            signal.signal(number, signal.SIG_IGN)
        for connection in others:  # whose ends would otherwise not be missed
            connection.close()
        keep_to_one_core(core)
        with contextlib.suppress(OSError):  # forbidden here
            if manner == "idle":
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            elif manner == "nice":
                os.nice(NICE)
        with torch.inference_mode(False), torch.no_grad():
            run()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
