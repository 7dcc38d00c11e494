"""What is to be run: one frozen object, checked at construction. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moco.ablation.studies import STUDIES, VARIED, study_names
from moco.config import Config
from moco.errors import ConfigError
from moco.recipes import default_recipe

FIELDS = tuple(field.name for field in dataclasses.fields(Config))
_ELSEWHERE = {"seed": "seeds", "recipe": "recipe"}  # fields that have an option of their own here


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `moco.ablate` and `moco ablate`.

    Args:
        study: mechanism, momentum, batchnorm, temperature, queue or v2; several with commas; paper for the first two;
            None with vary.
        data: a folder of images, a .npy/.npz file, the name of a torchvision data set (downloaded), or None for the
            picture book.
        out: folder of the grid.
        recipe: of all runs; None means v2 (picturebook for the embedded set).
        options: fields of `moco.Config` that differ from the recipe's in all runs.
        vary: instead of a study, values of fields of `moco.Config`; every combination is run.
        values: of what the study varies, instead of its own; by name of the study where there are several.
        seeds: of each point.
        linear: fit a linear probe after each run, beside the kNN figure.
        jobs: runs side by side, which share the processor's cores.
        minutes: stop after so many, with checkpoints; the same call goes on.
        dry_run: only plan and measure; nothing is written.
        retry_failed: try failed runs again.
        quiet: neither messages nor a progress bar.
        command: how the user called, for the record.
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
    dry_run: bool = False
    retry_failed: bool = False
    quiet: bool = False
    command: str | None = None

    @property
    def base(self) -> tuple[str, dict[str, Any]]:
        """Recipe and options of all runs."""
        return self.recipe or default_recipe(self.data), dict(self.options)

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of the built-in studies that are asked for."""
        return study_names(self.study) if self.study else ()

    def __post_init__(self) -> None:
        if bool(self.study) == bool(self.vary):
            raise ConfigError(f"study={self.study!r} and vary={dict(self.vary)}: give exactly one of the two")
        for name in (*self.options, *self.vary):
            check_field(name)
        for name in self.vary:
            if name in self.options:
                raise ConfigError(f"{name} is set and varied: drop one of them")
        for name, values in {**self.vary, **self.values}.items():
            if not values:
                raise ConfigError(f"{name} without values: give some, as in {name}=1,2")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds={list(self.seeds)}: need one or more different numbers from 0")
        if self.jobs < 1:
            raise ConfigError(f"jobs={self.jobs}: need at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes={self.minutes}: need a time above 0, or none for no limit")
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file: out needs a folder")
        self._check_values()

    def _check_values(self) -> None:
        for study in self.values:
            if study not in self.studies:
                among = f"it is not among {', '.join(self.studies)}" if self.studies else "vary has values of its own"
                raise ConfigError(f"values for the study {study!r}: {among}")


def make(study: str | None, data: Any, *, out: Any, values: Any = None, **rest: Any) -> Settings:
    """Settings from what the caller gave: a lone DATA in the place of the study, one list of values for one study.

    Raises:
        ConfigError: an unknown option, or a value that cannot work; what came, what was expected.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in rest:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            fields = " (fields of Config go into options={...})" if name in FIELDS else ""
            raise ConfigError(f"unknown option {name!r}" + (f": did you mean {', '.join(near)}?" if near else fields))
    if rest.get("vary") and study is not None and data is None and study.partition(",")[0] not in STUDIES:
        study, data = None, study  # moco ablate --vary ... DATA
    if not isinstance(data, str | os.PathLike | None):
        raise ConfigError(
            f"data of type {type(data).__name__}: the runs are processes of their own, so give a folder, a file "
            "(numpy.savez) or the name of a data set"
        )
    names = study_names(study) if study else ()
    if values and not isinstance(values, Mapping):
        if len(names) != 1:
            example = f"values={{{names[0]!r}: ...}}" if names else "a study"
            raise ConfigError(f"values={list(values)} for {len(names)} studies: say for which, as in {example}")
        values = {names[0]: values}
    rest = {**rest, "seeds": tuple(rest.get("seeds", (0,))), "values": dict(values or {})}
    path = None if data is None else os.fspath(data)
    return Settings(study=study, data=path, out=Path(out).expanduser(), **rest)


def check_field(name: str) -> None:
    """Refuse what is no option of a run, or has an option of its own here.

    Raises:
        ConfigError: the nearest names are suggested.
    """
    if name in _ELSEWHERE:
        raise ConfigError(f"{name} has an option of its own: {_ELSEWHERE[name]}")
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=3)
        raise ConfigError(f"unknown option {name!r}" + (f": did you mean {', '.join(near)}?" if near else ""))


def field_of_values(study: str) -> str:
    """The option that a study's values are of.

    Raises:
        ConfigError: it has none.
    """
    if study not in VARIED:
        raise ConfigError(f"values for the study {study!r}: its rows are fixed, leave them out")
    return VARIED[study]
