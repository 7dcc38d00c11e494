"""The folder of a grid; its state is what lies in the folders of the runs.

OUT/grid.json     data, recipe and options of all runs
OUT/runs/NAME     run folders, as `moco pretrain` makes them, with probe.json or failed.json beside summary.json
OUT/call          which call is at work: its jobs end when it is gone
OUT/.scratch      of the pilot, while it measures
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moco.atomic import is_of_the_disk, reason, write_json
from moco.config import Config
from moco.config_file import read_config
from moco.data.folder_lock import LOCK, clear_lock, locked, unlock
from moco.errors import BrokenOffError, ConfigError, RunError
from moco.sweep.plan import Planned

SCRATCH = ".scratch"
GOES_ON = "runs that have ended stay as they are: once that is cured, the same command goes on"


@dataclasses.dataclass(frozen=True)
class GridFolder:
    """One grid's files in the folder `path`, which need not exist yet."""

    path: Path

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.path / "runs" / name

    def check(self, shared: dict[str, Any]) -> None:
        """Compare what all runs share with what the folder was begun for.

        Raises:
            ConfigError: data, recipe or an option of all runs differs; the message names it.
            RunError: the folder holds something else.
        """
        stored = (read_json(self.path / "grid.json") or {}).get("shared")
        if stored is None:
            if self.path.is_dir() and {entry.name for entry in self.path.iterdir()} - {LOCK, "runs", SCRATCH}:
                raise RunError(f"{self.path} holds other files already: choose another out")
            return
        changed = [
            f"{name} is {stored.get(name, 'not set')}, now {shared.get(name, 'not set')}"
            for name in sorted({*stored, *shared})
            if stored.get(name) != shared.get(name)
        ]
        if changed:
            raise ConfigError(f"{self.path} was begun otherwise ({'; '.join(changed)}): choose another out")

    @contextlib.contextmanager
    def at_work(self, shared: dict[str, Any]) -> Iterator[None]:
        """Make the folder and lock it against other processes; what a killed call has left is removed.

        Raises:
            RunError: it cannot be made, or another process works in it.
            BrokenOffError: inside, the disk took no more.
        """
        with self._held():
            write_json(self.path / "grid.json", {"shared": shared})
            try:
                yield
            except (OSError, RunError) as error:
                if isinstance(error, BrokenOffError) or not is_of_the_disk(error):
                    raise
                said = str(error) if isinstance(error, RunError) else f"cannot write in {self.path}: {reason(error)}"
                raise BrokenOffError(f"{said}; {GOES_ON}") from error
            finally:
                self.call.unlink(missing_ok=True)
                for run in (self.path / "runs").glob("*"):  # of a run that was killed between its last two deeds
                    clear_lock(run)

    @property
    def call(self) -> Path:
        """Names the call that is at work."""
        return self.path / "call"

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot use {self.path} as output folder: {error.strerror or error}") from error
        try:
            lock = locked(self.path, "grid: wait for it or choose another out")
            try:
                shutil.rmtree(self.path / SCRATCH, ignore_errors=True)
                yield
            finally:
                shutil.rmtree(self.path / SCRATCH, ignore_errors=True)
                unlock(self.path, lock)
        finally:
            for folder in made:  # where nothing was written
                with contextlib.suppress(OSError):
                    folder.rmdir()

    @contextlib.contextmanager
    def scratch(self, *, held: bool) -> Iterator[Path]:
        """A place for a run that nobody keeps, in the folder, where the next call removes what a killed one has left.

        `held`: whether this call is `at_work` in the folder; otherwise it is there for that time only.
        """
        with contextlib.nullcontext() if held else self._held():
            yield self.path / SCRATCH / uuid.uuid4().hex

    def configs(self) -> dict[str, Config]:
        """Configurations of the runs that are here, by name."""
        files = sorted((self.path / "runs").glob("*/config.yaml"))
        return {file.parent.name: read_config(file)[0] for file in files}

    def failure(self, run: Planned) -> str | None:
        """Why a run has failed; None if it has not."""
        failed = read_json(self.run(run.name) / "failed.json")
        return None if failed is None else str(failed["reason"])

    def figures(self, run: Planned) -> dict[str, Any] | None:
        """The summary of a finished run, with that of its probe and the mean rate of all its parts; None before."""
        summary = read_json(self.run(run.name) / "summary.json")
        if summary is None or not summary["finished"]:
            return None
        seen = summary["steps"] * run.config.batch_size
        rate = seen / max(summary["training_seconds"], 1e-9)
        return {**summary, **(read_json(self.run(run.name) / "probe.json") or {}), "images_per_second": rate}

    def is_open(self, run: Planned, *, linear: bool) -> bool:
        """Whether there is something left to do for a run."""
        if self.failure(run) is not None:
            return False
        figures = self.figures(run)
        return figures is None or (linear and "linear_top1" not in figures)

    def steps_done(self, run: Planned) -> int:
        """Steps of a run so far, as its log says; 0 without one."""
        try:
            with (self.run(run.name) / "metrics.jsonl").open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
                steps = re.findall(rb'"step": (\d+)[,}]', stream.read())
        except OSError:
            return 0
        return int(steps[-1]) if steps else 0


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is no such file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{file} cannot be read ({str(error).splitlines()[0]}): remove it") from error
