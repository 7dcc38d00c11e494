"""From studies to runs: each distinct configuration once, in the order of the tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from moco.config import Config
from moco.errors import ConfigError
from moco.sweep.settings import OPERATIONAL, Settings
from moco.sweep.studies import BUILT_IN, vary
from moco.sweep.study import Base, Study

# What a run finds out of its images and its machine, where it is left at this.
FOUND = {"precision": "auto", "layout": "auto", "channels": None, "value_range": None, "normalization": "auto"}


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a grid: the name of its folder, its configuration, its optimiser steps."""

    name: str
    config: Config
    steps: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The studies and their runs."""

    studies: tuple[Study, ...]
    runs: tuple[Planned, ...]  # distinct configurations, in order
    places: dict[tuple[int, int], dict[int, str]]  # name of the run of each seed, by positions of study and point


def make_plan(settings: Settings, images: int, there: Mapping[str, Config] | None = None) -> Plan:
    """All runs of the settings on so many images; `there` are the configurations that have a folder already, by name.

    Raises:
        ConfigError: a point whose configuration cannot work, an option that would change nothing, or a folder of a
            planned name with another configuration.
    """
    base = Base(*settings.base, images)
    _ = base.config  # a wrong option is said before any point
    studies = tuple(BUILT_IN[name](base, settings.values.get(name)) for name in settings.studies)
    if settings.vary:
        studies = (vary(base, settings.vary),)
    _check_that_options_count(settings.options, studies)
    names: dict[Config, str] = {}
    places: dict[tuple[int, int], dict[int, Config]] = {}
    for seed in settings.seeds:  # seed by seed: a whole curve is there early
        for number, study in enumerate(studies):
            for position, point in enumerate(study.points):
                config = base.at(point, seed=seed)
                names.setdefault(config, f"{point.name}-seed{seed}")
                places.setdefault((number, position), {})[seed] = config
    if any(config.init is not None for config in names):
        raise ConfigError("init in a grid: its runs start from random weights, leave it out")
    names = _settled(names, there or {}, settings.out / "runs")
    runs = tuple(
        Planned(name, config, config.steps or (config.epochs or 0) * (images // config.batch_size))
        for config, name in names.items()
    )
    named = {place: {seed: names[config] for seed, config in row.items()} for place, row in places.items()}
    return Plan(studies, runs, named)


def _settled(names: Mapping[Config, str], there: Mapping[str, Config], folder: Path) -> dict[Config, str]:
    """With the names of the folders that hold these configurations already."""
    settled, free = {}, [name for name in there if name not in names.values()]
    for config, name in names.items():
        changed = "; ".join(differences(config, there[name])) if name in there else ""
        if changed:
            raise ConfigError(
                f"{folder / name} has another configuration ({changed}): choose another out, or remove it"
            )
        same = [] if name in there else [other for other in free if not differences(config, there[other])]
        settled[config] = same[0] if same else name
    return settled


def differences(wanted: Config, stored: Config) -> list[str]:
    """Fields that a result depends on and that are not as wanted; what a run finds out by itself may be anything."""
    theirs = dataclasses.asdict(stored)
    found = {name for name, unstated in FOUND.items() if getattr(wanted, name) == unstated}
    if stored.channels not in (None, 3) or isinstance(stored.value_range, tuple):
        found.add("normalization")  # measured
    return [
        f"{name} is {theirs[name]}, now {value}"
        for name, value in dataclasses.asdict(wanted).items()
        if value != theirs[name] and name not in OPERATIONAL and name not in found
    ]


def _check_that_options_count(options: Iterable[str], studies: tuple[Study, ...]) -> None:
    points = [point for study in studies for point in study.points]
    for name in options:
        if all(name in point.options or name in point.without for point in points):
            raise ConfigError(f"{name} is set, but every point has its own: drop it, or choose the values of the study")
