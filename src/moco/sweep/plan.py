"""From studies to runs: each distinct configuration once, in the order of the tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from moco.config import Config
from moco.errors import ConfigError
from moco.sweep.settings import Settings
from moco.sweep.studies import BUILT_IN, vary
from moco.sweep.study import Base, Study

# Where and how fast a run computes, not what: they may differ between two calls for one grid.
OPERATIONAL = ("threads", "workers", "cache_gib", "data_root", "checkpoint_minutes")


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a grid: the name of its folder, its configuration, its optimiser steps."""

    name: str
    config: Config
    steps: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The studies and their runs.

    Attributes:
        base: what all runs share.
        studies: the tables to come.
        runs: distinct configurations, in order.
        places: name of the run of each (study, point, seed), by position for the first two.
    """

    base: Base
    studies: tuple[Study, ...]
    runs: tuple[Planned, ...]
    places: dict[tuple[int, int, int], str]

    def renamed(self, names: Mapping[str, str]) -> Plan:
        """With the folders that hold these configurations already."""
        runs = tuple(dataclasses.replace(run, name=names.get(run.name, run.name)) for run in self.runs)
        places = {place: names.get(name, name) for place, name in self.places.items()}
        return dataclasses.replace(self, runs=runs, places=places)


def make_plan(settings: Settings, images: int) -> Plan:
    """All runs of the settings on so many images.

    Raises:
        ConfigError: a point whose configuration cannot work, or an option that would change nothing.
    """
    base = Base(*settings.base, images)
    _ = base.config  # a wrong option is said before any point
    studies = tuple(BUILT_IN[name](base, settings.values.get(name)) for name in settings.studies)
    if settings.vary:
        studies = (vary(base, settings.vary),)
    _check_that_options_count(settings.options, studies)
    runs: dict[Config, Planned] = {}
    places: dict[tuple[int, int, int], str] = {}
    for seed in settings.seeds:  # seed by seed: a whole curve is there early
        for number, study in enumerate(studies):
            for position, point in enumerate(study.points):
                config = base.at(point, seed=seed)
                steps = config.steps or (config.epochs or 0) * (images // config.batch_size)
                run = runs.setdefault(config, Planned(f"{point.name}-seed{seed}", config, steps))
                places[number, position, seed] = run.name
    return Plan(base, studies, tuple(runs.values()), places)


def differences(wanted: Config, stored: Config) -> list[str]:
    """The facts that are not as wanted, in words; precision and layout that are wanted as "auto" may be anything."""
    theirs = facts(stored)
    return [
        f"{name} is {theirs[name]}, now {value}"
        for name, value in facts(wanted).items()
        if value != theirs[name] and not (name in ("precision", "layout") and value == "auto")
    ]


def facts(config: Config) -> dict[str, Any]:
    """The fields that a result depends on."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in OPERATIONAL}


def _check_that_options_count(options: Iterable[str], studies: tuple[Study, ...]) -> None:
    points = [point for study in studies for point in study.points]
    for name in options:
        if all(name in point.options or name in point.without for point in points):
            raise ConfigError(f"{name} is set, but every point has its own: drop it, or choose the values of the study")
