"""How the worker processes of a DataLoader behave: one thread each, and never longer-lived than who started them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import shutil
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from moco.errors import RunError

T = TypeVar("T")

MOST_WORKERS = 16
PATIENCE = 0.3  # seconds that ended workers have for the images in their hands
_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One worker for each core that this process may use, at most 16."""
    return min(MOST_WORKERS, cores())


def start_method() -> str | None:
    """How workers are started: forked on Linux, where they share memory with this process; else Python's own choice."""
    return "fork" if sys.platform.startswith("linux") else None


def worker_init(worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`, which has already limited PyTorch to one thread.

    Ctrl-C reaches every process of a terminal; it is for the one that trains, which ends its workers. When that one is
    killed, the system ends them on Linux at once; elsewhere PyTorch's workers notice within five seconds.
    """
    # A folder for sockets that the parent has made is the parent's, and not ours to remove.
    multiprocessing.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined]
    if sys.platform.startswith("linux"):
        multiprocessing.connection.arbitrary_address = _unnamed_address  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent = multiprocessing.parent_process()
    if parent is not None and not end_with_parent(parent.pid, signal.SIGTERM):
        _end(signal.SIGTERM, None)


def _unnamed_address(family: str) -> str:
    """Of the socket through which a worker hands over shared memory: on Linux without a file, which a killed process
    would leave behind and whose path may have no more than 107 bytes. Connections need multiprocessing's key as before.
    """
    return f"\0moco-{os.getpid()}-{uuid.uuid4().hex}"


def end_with_parent(parent: int | None, number: int) -> bool:
    """Let the system send this process a signal when its parent ends; 0 takes that back. Elsewhere than on Linux: no.

    Returns:
        False where the parent, given by its process id, had ended before the system was told.
    """
    if not sys.platform.startswith("linux"):
        return True
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    return parent == os.getppid()


def make_loader(dataset: Dataset[T], batches: Iterable[list[Any]], *, workers: int, **options: Any) -> DataLoader[T]:
    """A DataLoader of batches that the data set makes whole, with workers as this module describes them."""
    if workers:
        options |= {"multiprocessing_context": start_method(), "worker_init_fn": worker_init}
    with _as_many_as_wanted():  # its own generator: seeds of workers would be drawn from the global one
        return DataLoader(dataset, batch_sampler=batches, num_workers=workers, generator=torch.Generator(), **options)


@contextlib.contextmanager
def _as_many_as_wanted() -> Generator[None]:
    """Without PyTorch's warning that there are more workers than cores: their number is an option of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


def start_workers(loader: DataLoader[T]) -> Iterator[T]:
    """An iterator whose `next` alone tells that a worker died.

    PyTorch would raise that from a signal handler, in the middle of whatever this process does; without it, `next`
    finds out within five seconds.
    """
    handled = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    handler = signal.getsignal(signal.SIGCHLD) if handled else None
    with _as_many_as_wanted():
        made: Iterator[T] = iter(loader)
    if handled:
        signal.signal(signal.SIGCHLD, handler)
    return made


@contextlib.contextmanager
def worker_deaths(advice: str) -> Generator[None]:
    """Around `next`: a worker's death becomes an error of one line; errors in a worker stay as they are.

    Raises:
        RunError: a worker was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = str(error).splitlines()[0].rstrip(". ")
        raise RunError(f"{reason}; it may be out of memory: {advice}") from error


def end_workers(made: Any) -> None:
    """End the worker processes of an iterator of a DataLoader, where need be in the middle of an image.

    Waiting for the iterator's own end would not do: an error that came from it holds it.
    """
    if sys.is_finalizing():  # multiprocessing has ended them, and no thread starts any more
        return
    impatience = threading.Timer(PATIENCE, _terminate, [made._workers])
    impatience.start()
    made._shutdown_workers()
    impatience.cancel()


def _terminate(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()


def _end(number: int, frame: FrameType | None) -> None:
    """End without a word, and without the folder in which multiprocessing keeps a worker's socket elsewhere than on
    Linux.
    """
    folder = multiprocessing.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
