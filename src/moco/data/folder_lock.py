"""A folder that only one process may write to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO

from moco.errors import RunError

_ATTEMPTS, _PAUSE = 10, 0.1  # seconds


def locked(folder: Path, other: str) -> IO[str]:
    """Lock a folder against other processes until the file that is returned is closed, or the process ends.

    `other`: who may hold it, and what to do then, for the message.

    Raises:
        RunError: another process holds the lock, or the folder cannot be written to.
    """
    path = folder / ".lock"
    try:
        lock = path.open("w")
    except OSError as error:
        raise RunError(f"cannot use {folder} as output folder: {error.strerror or error}") from error
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks
        return lock
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if attempt == _ATTEMPTS - 1:
                lock.close()
                raise RunError(f"{folder} is in use by another {other}") from error
            time.sleep(_PAUSE)  # the workers of a process that was killed end a moment after it
    if not _is_at(lock, path):  # the holder removed it while it was opened
        lock.close()
        raise RunError(f"{folder} is in use by another {other}")
    return lock


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
