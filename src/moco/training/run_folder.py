"""The folder of a run: who holds it, what lies in it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from moco import atomic
from moco.data.folder_lock import LOCK, locked, unlock
from moco.errors import RunError

CHECKPOINTS = "checkpoints"


class RunFolder:
    """One run's files: config.yaml, metrics.jsonl, summary.json, checkpoints/, backbone.safetensors.

    Taking the folder locks it against other processes until `close`; the lock falls with the process.

    Args:
        path: the folder; made on `take`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._made = False

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / CHECKPOINTS / "last.pt"

    @property
    def record(self) -> Path:
        """Which images the run began with; see `moco.data.record`."""
        return self.path / "images.npz"

    @property
    def any_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        return any(self.checkpoint.parent.glob("*.pt"))

    @property
    def config(self) -> Path:
        """The configuration as YAML."""
        return self.path / "config.yaml"

    @property
    def skipped(self) -> Path:
        """The damaged files, one JSON object a line; there only if any was met."""
        return self.path / "skipped.jsonl"

    def check(self, *, resume: bool) -> None:
        """Whether the folder may be taken; changes nothing.

        Raises:
            RunError: it is a file, holds something already, or (to resume) holds no run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: --out needs a folder")
        if resume:
            if not self.config.is_file():
                raise RunError(f"{self.path} holds no run to resume: leave out --resume or name a run's folder")
        elif self.path.is_dir() and any(not self._is_mine(entry) for entry in self.path.iterdir()):
            what = "a run already: add --resume to continue it, or" if self.config.is_file() else "other files already:"
            raise RunError(f"{self.path} holds {what} choose another --out")

    def _is_mine(self, entry: Path) -> bool:
        """Whether `take` has made this, and nothing has been put into it: so do runs that end before they begin."""
        unwritten = entry.name.startswith(".") and ".partial" in entry.name  # see `moco.atomic`
        return unwritten or (entry.name in (LOCK, CHECKPOINTS) and not (entry.is_dir() and any(entry.iterdir())))

    def take(self, *, resume: bool) -> None:
        """Make the folder and lock it; whether it may be taken is asked again, as another run may just have ended.

        Raises:
            RunError: it cannot be made, another process works in it, or it may not be taken.
        """
        self._made = not self.path.exists()
        try:
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot use {self.path} as output folder: {error.strerror or error}") from error
        self._lock = locked(self.path, "run: wait for it or choose another --out")
        try:
            self.check(resume=resume)
        except RunError:
            self.close()
            raise

    def close(self) -> None:
        """Unlock."""
        if self._lock is not None:
            unlock(self.path, self._lock)
            self._lock = None

    def clear(self) -> None:
        """Remove what a run has written that has not done a step, and the folder if it was made by `take`."""
        for path in list(self.path.iterdir()):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if self._made:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Inside, a file system that refuses is said in one line, with what is left. Other errors of the system, such
        as those of a user's callback, stay what they are.

        Raises:
            RunError: it did.
        """
        try:
            yield
        except OSError as error:
            own = Path(str(error.filename)).is_relative_to(self.path)
            if not atomic.is_of_the_disk(error) and not own:
                raise
            last, where = self.checkpoint, error.filename or self.path
            left = f"{last} is whole: --resume goes on from there" if last.is_file() else "there is no checkpoint yet"
            raise RunError(f"cannot write {where}: {atomic.reason(error)}; {left}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a small file whole or not at all."""
        atomic.write_text(self.path / name, text)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        atomic.write_bytes(self.path / name, content)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write an indented JSON object whole or not at all."""
        atomic.write_json(self.path / name, content)

    def trim_metrics(self, step: int) -> None:
        """Drop the lines after `step`, which a resumed run will write again."""
        file = self.path / "metrics.jsonl"
        if file.is_file():
            kept = [
                line
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if _step_of(line) <= step
            ]
            self.write_text("metrics.jsonl", "".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, RecursionError):  # a line cut short by a kill
        return float("inf")
