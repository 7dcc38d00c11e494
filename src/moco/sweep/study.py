"""A study is a list of points, each a few options that differ from the base; here are its parts and the base."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from moco.config import Config
from moco.recipes import configure

Axis = Literal["log", "even", "linear", "category"]
JUDGED = {"knn_images": 10**9}  # long or short, every run is judged by the same images


@dataclasses.dataclass(frozen=True)
class Point:
    """One row of a study's table."""

    label: str  # as the table shows it
    name: str  # for the run's folder
    options: Mapping[str, Any]  # fields of `Config` in which the point differs from the base
    line: str = ""  # the curve in the plot that it belongs to; "" where there is one only
    x: float | None = None  # place on a numeric axis; None for a category
    published: str = ""  # the papers' figure, "" where there is none
    without: tuple[str, ...] = ()  # options of the base that mean nothing here, and are left out


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the points that answer it."""

    name: str  # for files and the command
    title: str  # the question, as a heading
    axis_label: str  # what varies
    axis: Axis  # of the plot; "even" places numbers side by side, category draws bars
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()  # what the reader should know of the choice of points


@dataclasses.dataclass(frozen=True)
class Base:
    """What all runs of a grid share: recipe, options that differ from it, how many images are learnt from."""

    recipe: str
    options: Mapping[str, Any]
    images: int

    @property
    def config(self) -> Config:
        """The configuration before any point changes it."""
        return configure(self.recipe, {**JUDGED, **self.options})

    def at(self, point: Point, *, seed: int) -> Config:
        """The configuration of a point.

        Raises:
            ConfigError: values that cannot work together.
        """
        shared = {name: value for name, value in self.options.items() if name not in point.without}
        return configure(self.recipe, {**JUDGED, **shared, **point.options, "seed": seed})


def axis_of(values: Sequence[Any]) -> Axis:
    """Bars for what is no number; a logarithm where numbers span more than a factor of 20."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "category"
    low, high = min(values), max(values)
    return "log" if low > 0 and high / low > 20 else "linear"


def number(value: float) -> str:
    """4,096 and 0.999, as the tables show them."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
