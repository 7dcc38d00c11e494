"""The folder of a grid: what was asked, the runs, what became of each. Loads without PyTorch.

OUT/grid.json        what all runs share, and what was measured before the start
OUT/runs/NAME        run folders, as `moco pretrain` makes them
OUT/outcomes/NAME.*  .json: finished or failed and the figures; .log: what the process said
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from moco.ablation.plan import Plan, Planned, differences, identity
from moco.config import Config
from moco.data.folder_lock import locked
from moco.errors import ConfigError, MocoError, RunError
from moco.recipes import configure

State = Literal["new", "begun", "finished", "failed"]


class Store:
    """One grid's files. Taking it locks it against other processes until `close`.

    Args:
        path: OUT; made on `take`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.path / "runs" / name

    def outcome_file(self, name: str) -> Path:
        """Where a run's outcome is, once there is one."""
        return self.path / "outcomes" / f"{name}.json"

    def log_file(self, name: str) -> Path:
        """What the process of a run said."""
        return self.path / "outcomes" / f"{name}.log"

    def take(self) -> None:
        """Make the folder and lock it.

        Raises:
            RunError: it cannot be made, or another process works in it.
        """
        try:
            for folder in ("runs", "outcomes", "baselines"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot use {self.path} as output folder: {error.strerror or error}") from error
        self._lock = locked(self.path, "grid: wait for it or choose another out")

    def close(self) -> None:
        """Unlock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_base(self, asked: dict[str, Any]) -> None:
        """Compare with what the folder was begun for.

        Raises:
            ConfigError: data, recipe or an option of all runs differs; the message names it.
            RunError: the folder holds something else.
        """
        stored = read_json(self.path / "grid.json")
        if stored is None:
            if self.path.is_dir() and any(entry.name != ".lock" for entry in self.path.iterdir()):
                raise RunError(f"{self.path} holds other files already: choose another out")
            return
        then, now = _flat(stored["asked"]), _flat(json.loads(json.dumps(asked)))
        changed = [
            f"{name} is {then.get(name, 'not set')}, now {now.get(name, 'not set')}"
            for name in sorted({*then, *now})
            if then.get(name) != now.get(name)
        ]
        if changed:
            raise ConfigError(f"{self.path} was begun otherwise ({'; '.join(changed)}): choose another out")

    def note(self, **content: Any) -> None:
        """Add to grid.json."""
        write_json(self.path / "grid.json", {**(read_json(self.path / "grid.json") or {}), **content})

    def noted(self, name: str) -> Any:
        """What was noted under this name, None if nothing was."""
        return (read_json(self.path / "grid.json") or {}).get(name)

    def settle(self, plan: Plan) -> Plan:
        """The plan with runs that are here already under the names that they have.

        Raises:
            ConfigError: a run of a planned name has another configuration; the message names the difference.
        """
        names: dict[str, str] = {}
        there = {identity(config): name for name, config in self._configurations()}
        for run in plan.runs:
            name = there.get(identity(run.config))
            if name is not None:
                names[run.name] = name
            elif (self.run(run.name) / "config.yaml").is_file():
                changed = "; ".join(differences(run.config, self.configuration(run.name)))
                raise ConfigError(
                    f"{self.run(run.name)} has another configuration ({changed}): choose another out, or remove it"
                )
        return plan.renamed(names)

    def configuration(self, name: str) -> Config:
        """The configuration that a run has stored.

        Raises:
            RunError: it cannot be read.
        """
        file = self.run(name) / "config.yaml"
        try:
            stored = yaml.safe_load(file.read_text(encoding="utf-8"))
            stored.pop("data")
            return configure(stored.pop("recipe"), stored)
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, MocoError) as error:
            raise RunError(f"{file} cannot be read ({str(error).splitlines()[0]}): remove the run's folder") from error

    def state(self, run: Planned, *, linear: bool) -> State:
        """How far a run is."""
        outcome = self.outcome(run.name)
        if outcome is not None and outcome["state"] == "failed":
            return "failed"
        if outcome is not None and (not linear or "linear_top1" in outcome):
            return "finished"
        return "begun" if (self.run(run.name) / "config.yaml").is_file() else "new"

    def outcome(self, name: str) -> dict[str, Any] | None:
        """What became of a run, None if that is open."""
        return read_json(self.outcome_file(name))

    def steps_done(self, name: str) -> int:
        """Steps of a run so far, as its log says; 0 without one."""
        return last_step(self.run(name) / "metrics.jsonl")

    def _configurations(self) -> list[tuple[str, Config]]:
        folders = sorted((self.path / "runs").glob("*/config.yaml"))
        return [(file.parent.name, self.configuration(file.parent.name)) for file in folders]


def last_step(file: Path) -> int:
    """The newest step in a metrics.jsonl; 0 where there is none yet."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 4096))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # cut off at the start of the block, or not written whole yet
            continue
    return 0


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is no such file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({str(error).splitlines()[0]}): remove it") from error
    if not isinstance(content, dict):
        raise RunError(f"{file} holds no JSON object: remove it")
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """An indented JSON object, whole or not at all."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _flat(asked: dict[str, Any]) -> dict[str, Any]:
    return {"data": asked["data"], "recipe": asked["recipe"], **asked["options"]}
