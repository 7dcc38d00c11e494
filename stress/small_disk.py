"""A file system in memory of a chosen size, where the system lets this process mount one."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

_NEW_NAMESPACE = 0x00020000  # CLONE_NEWNS: mounts are seen by this process and its children alone, and end with them


class SmallDisk:
    """Mounted on a folder until `close`."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        if not _mount("-t", "tmpfs", "-o", f"size={max(4096, size)}", "stress", str(folder)):
            raise OSError(f"cannot mount a file system on {folder}")

    @staticmethod
    @functools.cache
    def possible() -> bool:
        """Whether this process may mount."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0 or ctypes.CDLL(None).unshare(_NEW_NAMESPACE) != 0:
            return False
        if not _mount("--make-rprivate", "/"):
            return False
        folder = Path(tempfile.mkdtemp(prefix="moco-stress-"))
        try:
            SmallDisk(folder, 4096).close()
        except OSError:
            return False
        finally:
            folder.rmdir()
        return True

    def enlarge(self) -> None:
        """Make room."""
        _mount("-o", "remount,size=1g", str(self.folder))

    def close(self) -> None:
        """Take it away with all that it holds."""
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False
