"""What is to be run: one frozen object, checked at construction. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from moco.errors import ConfigError
from moco.fields import LARGEST_REAL, LARGEST_SEED, check_path, check_processes
from moco.recipes import check_options, default_recipe
from moco.sweep.studies import STUDIES, VARIED, study_names

Launcher = Literal["local", "slurm"]
# Where and how fast a run computes, not what: they may differ between two calls for one grid.
OPERATIONAL = ("threads", "workers", "cache_gib", "data_root", "checkpoint_minutes")
_ELSEWHERE = {"seed": "seeds", "recipe": "recipe"}  # fields that have an option of their own here


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `moco.ablate`, which says what they mean, and their defaults.

    Raises:
        ConfigError: an option that cannot work, or would change nothing.
    """

    study: str | None = None
    data: str | None = None
    out: Path
    recipe: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vary: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    linear: bool = True
    jobs: int = 1
    minutes: float | None = None
    launcher: Launcher = "local"
    slurm: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dry_run: bool = False
    retry_failed: bool = False
    quiet: bool = False
    command: str | None = None

    @property
    def base(self) -> tuple[str, dict[str, Any]]:
        """Recipe and options of all runs."""
        return self.recipe or default_recipe(self.data), dict(self.options)

    @property
    def shared(self) -> dict[str, Any]:
        """What must be the same in every call for one folder, as grid.json holds it."""
        options = {name: value for name, value in self.options.items() if name not in OPERATIONAL}
        return dict(json.loads(json.dumps({"data": self.data, "recipe": self.base[0], **options})))

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of the built-in studies to run."""
        return study_names(self.study) if self.study else ()

    def __post_init__(self) -> None:
        for name in (*self.options, *self.vary):
            check_field(name)
        among = f"it is not among {', '.join(self.studies)}" if self.studies else "vary has values of its own"
        both, given = f"study={self.study!r} and vary={dict(self.vary)}", {**self.vary, **self.values}
        checks = [
            (self.recipe == "auto", "recipe='auto' fits each run to itself: name another, so that the runs compare"),
            (bool(self.study) == bool(self.vary), f"{both}: give exactly one of the two"),
            *((name in self.options, f"{name} is set and varied: drop one of them") for name in self.vary),
            *((not values, f"{name} without values: give some, as in {name}=1,2") for name, values in given.items()),
            *(
                (
                    len({json.dumps(value) for value in values}) < len(values),
                    f"{name}={list(values)}: drop what is double",
                )
                for name, values in given.items()
            ),
            (
                not self.seeds
                or max(self.seeds) > LARGEST_SEED
                or len(set(self.seeds)) < len(self.seeds)
                or min(self.seeds) < 0,
                f"seeds={list(self.seeds)}: need one or more different numbers from 0",
            ),
            (
                self.minutes is not None and not 0 < self.minutes <= LARGEST_REAL,
                f"minutes={self.minutes}: need a time above 0, at most {LARGEST_REAL:,.0f}",
            ),
            (self.launcher not in ("local", "slurm"), f"launcher={self.launcher!r}: choose one of local, slurm"),
            (self.slurm and self.launcher != "slurm", f"slurm={dict(self.slurm)}: belongs to launcher slurm"),
            (self.out.exists() and not self.out.is_dir(), f"{self.out} is a file: out needs a folder"),
            *((name not in self.studies, f"values for the study {name!r}: {among}") for name in self.values),
            *((name not in VARIED, f"values for the study {name!r}: its rows are fixed") for name in self.values),
        ]
        check_processes("jobs", self.jobs, least=1)
        for wrong, message in checks:
            if wrong:
                raise ConfigError(message)


def make(study: str | None, data: Any, values: Any, **rest: Any) -> Settings:
    """Settings from what the caller gave: a lone DATA in the place of the study, one list of values for one study.

    Raises:
        ConfigError: an option that cannot work; what came, what was expected.
    """
    if rest["vary"] and study is not None and data is None and study.partition(",")[0] not in STUDIES:
        study, data = None, study  # moco ablate --vary ... DATA
    if not isinstance(data, str | os.PathLike | None):
        raise ConfigError(
            f"data of type {type(data).__name__}: the runs are processes of their own, so give a folder, a file "
            "(numpy.savez) or the name of a data set"
        )
    names = study_names(study) if study else ()
    if values and not isinstance(values, Mapping):
        if len(names) != 1:
            raise ConfigError(f"values={list(values)} for {len(names)} studies: say for which, as in {{'queue': [8]}}")
        values = {names[0]: values}
    check_path("out", rest["out"])
    given = {name: value for name, value in {**rest, "values": values}.items() if value is not None}
    given |= {"out": Path(rest["out"]).expanduser(), "seeds": tuple(rest["seeds"])}
    return Settings(study=study, data=None if data is None else os.fspath(data), **given)


def check_field(name: str) -> None:
    """Refuse what is no option of a run, or has an option of its own here.

    Raises:
        ConfigError: the nearest names are suggested.
    """
    if name in _ELSEWHERE:
        raise ConfigError(f"{name} has an option of its own: {_ELSEWHERE[name]}")
    check_options([name])
