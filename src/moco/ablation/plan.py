"""From studies to runs: each distinct configuration once, in the order of the tables. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from moco.ablation.settings import Settings
from moco.ablation.studies import BUILT_IN, vary
from moco.ablation.study import Base, Study
from moco.config import Config
from moco.errors import ConfigError

# Where and how fast a run computes, not what: they may differ between two calls for one grid.
OPERATIONAL = ("threads", "lanes", "workers", "cache_gib", "data_root", "checkpoint_minutes")
CHOSEN = ("precision", "layout", "compile")  # "auto" is settled once for a grid


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a grid.

    Attributes:
        name: of its folder.
        config: its configuration.
        steps: optimiser steps.
    """

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

    def named(self, name: str) -> Planned:
        """The run of this name."""
        return next(run for run in self.runs if run.name == name)

    def renamed(self, names: dict[str, str]) -> Plan:
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
    runs: dict[str, Planned] = {}
    places: dict[tuple[int, int, int], str] = {}
    for seed in settings.seeds:  # seed by seed: a whole curve is there early
        for number, study in enumerate(studies):
            for position, point in enumerate(study.points):
                config = base.at(point, seed=seed)
                run = Planned(f"{point.name}-seed{seed}", config, steps_of(config, images))
                places[number, position, seed] = runs.setdefault(identity(config), run).name
    return Plan(base, studies, tuple(runs.values()), places)


def identity(config: Config) -> str:
    """What a run computes, as text: equal for configurations that differ only in how it is carried out."""
    return json.dumps({name: value for name, value in facts(config).items() if name not in CHOSEN}, sort_keys=True)


def facts(config: Config) -> dict[str, Any]:
    """The fields that a result depends on, as plain data."""
    stated = dataclasses.asdict(config)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in stated.items()
        if name not in OPERATIONAL
    }


def differences(wanted: Config, stored: Config) -> list[str]:
    """The facts that are not as wanted, in words; what is wanted as "auto" may be anything."""
    ours, theirs = facts(wanted), facts(stored)
    return [
        f"{name} is {theirs[name]}, now {value}"
        for name, value in ours.items()
        if value != theirs[name] and not (name in CHOSEN and value == "auto")
    ]


def steps_of(config: Config, images: int) -> int:
    """Optimiser steps of a run on so many images."""
    return config.steps or (config.epochs or 0) * (images // config.batch_size)


def _check_that_options_count(options: Iterable[str], studies: tuple[Study, ...]) -> None:
    points = [point for study in studies for point in study.points]
    for name in options:
        if all(name in point.options or name in point.without for point in points):
            raise ConfigError(f"{name} is set, but every point has its own: drop it, or choose the values of the study")
