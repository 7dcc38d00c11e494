"""Fields of a configuration with the limits of their values, which the configuration checks when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


def limited(default: Any, fits: Callable[[Any], bool], needed: str) -> Any:
    """A field whose value, where it is not None, has to fit."""
    return dataclasses.field(default=default, metadata={"fits": fits, "needed": needed})


def at_least(least: float, default: Any) -> Any:
    """A field whose value has a minimum."""
    return limited(default, lambda value: value >= least, f"at least {least}")


def above_zero(default: Any) -> Any:
    """A field whose value is positive."""
    return limited(default, lambda value: value > 0, "a value above 0")


def share(default: Any) -> Any:
    """A field whose value is a share or a probability."""
    return limited(default, lambda value: 0.0 <= value <= 1.0, "a value from 0 to 1")


def patterns() -> Any:
    """A field of any number of patterns."""
    return limited((), lambda value: not isinstance(value, str) and all(value), "patterns such as ['masks/*']")
