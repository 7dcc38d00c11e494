"""Counts the changes of files that a process makes, and ends the process at one of them.

Python tells of each by an audit event before it happens: opening to write, replacing, removing, making a folder.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}


@dataclasses.dataclass(frozen=True)
class Moment:
    """`delay` seconds after the start of the n-th change (from 1); 0: just before it."""

    number: int
    delay: float = 0.0


def watch_files(folder: Path, moment: Moment | None) -> Callable[[], int]:
    """Watch this process for the rest of its life; the returned function gives the changes below `folder` so far."""
    count, inside, first = 0, str(folder), os.getpid()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES and not (event == "open" and (arguments[2] or 0) & WRITES):
            return
        if os.getpid() != first or not _is_below(arguments[0], inside):  # of a worker process, or elsewhere
            return
        count += 1
        if moment is not None and count == moment.number:
            _kill(moment.delay)

    sys.addaudithook(watch)
    return lambda: count


def _is_below(path: Any, folder: str) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    text = os.fsdecode(path)
    return not os.path.isabs(text) or text.startswith(folder)


def _kill(delay: float) -> None:
    if delay <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
