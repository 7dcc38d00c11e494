"""A folder that only one process may write to."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import IO

from moco.errors import RunError

LOCK = ".lock"  # a file in the folder while a process holds it, and after it was killed until the next one
_ATTEMPTS, _PAUSE = 10, 0.1  # seconds


def locked(folder: Path, other: str, *, attempts: int = _ATTEMPTS) -> IO[str]:
    """Lock a folder against other processes until `unlock`, or until the file that is returned is closed, or the
    process ends.

    `other`: who may hold it, and what to do then, for the message.

    Raises:
        RunError: another process holds the lock, or the folder cannot be written to.
    """
    path = folder / LOCK
    for attempt in range(attempts):
        try:
            lock = path.open("w")
        except OSError as error:
            raise RunError(f"cannot use {folder} as output folder: {error.strerror or error}") from error
        if _taken(lock) and _is_at(lock, path):  # else its holder has just removed it
            return lock
        lock.close()
        if attempt < attempts - 1:
            time.sleep(_PAUSE)  # the workers of a process that was killed end a moment after it
    raise RunError(f"{folder} is in use by another {other}")


def unlock(folder: Path, lock: IO[str]) -> None:
    """Give the lock back. Its file goes while it is held, or it might be another process's by then."""
    with contextlib.suppress(OSError):  # Windows removes no open file
        (folder / LOCK).unlink(missing_ok=True)
    lock.close()
    if os.name == "nt":
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)


def clear_lock(folder: Path) -> None:
    """Remove the lock file that a killed process has left; one that is held stays."""
    if (folder / LOCK).is_file():
        with contextlib.suppress(RunError):
            unlock(folder, locked(folder, "process", attempts=1))


def _taken(lock: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
