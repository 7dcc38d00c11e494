"""Temporary files and shared memory that outlive the processes that made them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
OF_LIBRARIES = {"torchinductor_root", "torchinductor_" + os.environ.get("USER", "root")}  # PyTorch makes it on import


class Leftovers:
    """What is new since it was made: in a folder of temporary files, and in shared memory that nobody uses."""

    def __init__(self, temporary: Path) -> None:
        self._temporary, self._before = temporary, _shared()

    def found(self) -> list[str]:
        """Names of what is left."""
        left = []
        if self._temporary.is_dir():
            names = {path.name for path in self._temporary.iterdir()} - OF_LIBRARIES
            left = sorted(f"tmp/{name}" for name in names)
        if new := _shared() - self._before:
            used = _in_use()
            left += [str(SHARED_MEMORY / name) for name in new if name not in used and not _is_of_the_living(name)]
        return left

    def remove(self) -> None:
        """Remove the temporary files."""
        shutil.rmtree(self._temporary, ignore_errors=True)


def _shared() -> set[str]:
    try:
        return set(os.listdir(SHARED_MEMORY))
    except OSError:
        return set()


def _is_of_the_living(name: str) -> bool:
    """Whether a process that is at work has made it: PyTorch's names begin with torch_ and the process's id."""
    maker = re.match(r"torch_(\d+)_", name)
    return maker is not None and Path("/proc", maker[1]).exists()


def _in_use() -> set[str]:
    """Names in /dev/shm that a living process has mapped or open: other programs work on this machine too."""
    used = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            for line in Path("/proc", entry, "maps").read_text().splitlines():
                if str(SHARED_MEMORY) in line and not line.endswith("(deleted)"):
                    used.add(line.rpartition("/")[2])
            for descriptor in os.listdir(f"/proc/{entry}/fd"):
                with contextlib.suppress(OSError):
                    used.add(os.readlink(f"/proc/{entry}/fd/{descriptor}").rpartition("/")[2])
    return used
