"""Limits of values: fields of a configuration, checked when it is made, and the numbers that other functions take."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from moco.errors import ConfigError
from moco.printable import plain_name

LARGEST = 2**31 - 1  # of whole numbers: more steps, keys or pixels than any run has
LARGEST_REAL = 1e6  # of the others: float32 holds its products
LARGEST_SEED = 2**63 - 1
LARGEST_SIDE = 4096  # pixels of a view: 200 MB each


def limited(default: Any, fits: Callable[[Any], bool], needed: str | Callable[[Any], str]) -> Any:
    """A field whose value, where it is not None, has to fit; `needed` says what does, perhaps beside a value."""
    return dataclasses.field(default=default, metadata={"fits": fits, "needed": needed})


def at_least(least: float, default: Any, *, most: float | None = None) -> Any:
    """A field whose value has a minimum, and a maximum that leaves room for whatever makes sense."""
    top = most or (LARGEST_REAL if isinstance(default, float) else LARGEST)
    return limited(default, lambda value: least <= value <= top, lambda value: missed(value, least, top))


def above_zero(default: Any) -> Any:
    """A field whose value is positive."""
    return limited(default, lambda value: 0 < value <= LARGEST_REAL, f"a value above 0, at most {LARGEST_REAL:g}")


def share(default: Any) -> Any:
    """A field whose value is a share or a probability."""
    return limited(default, lambda value: 0.0 <= value <= 1.0, "a value from 0 to 1")


def areas(default: Any) -> Any:
    """A field of a smallest and a largest area."""
    return limited(default, _are_areas, "two growing shares of the image, as [0.05,0.14]")


def patterns() -> Any:
    """A field of any number of patterns."""
    return limited((), _are_patterns, "patterns such as ['masks/*']")


def check_number(name: str, value: float | None, least: float, most: float = LARGEST) -> None:
    """Raise ConfigError for what is no number from `least` to `most`; None passes."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}={value!r}: expected a number")
    if not least <= value <= most:
        raise ConfigError(f"{name}={value}: need {missed(value, least, most)}")


def check_processes(name: str, value: int | None, *, least: int = 0) -> None:
    """Raise ConfigError for more processes or threads than this machine can have any use for: 4 a core, or 32; None
    passes.
    """
    cores = os.cpu_count() or 1
    most = max(32, 4 * cores)
    if isinstance(value, int) and value > most:
        raise ConfigError(f"{name}={value}: this machine has {cores} cores, need at most {most}")
    check_number(name, value, least)


def check_path(name: str, value: Any) -> None:
    """Raise ConfigError for what names no file or folder; None may stand for one.

    What is to be made, `out`, needs a name in UTF-8: TensorBoard, ONNX and others cannot open any other.
    """
    if not isinstance(value, str | os.PathLike | None):
        raise ConfigError(f"{name}={value!r}: expected a path")
    if value is not None and "\0" in os.fsdecode(value):
        raise ConfigError(f"{name}={value!r}: a path has no NUL")
    if name == "out" and value is not None and plain_name(os.fspath(value)) != os.fspath(value):
        raise ConfigError(
            f"out={os.fspath(value)}: the name is not UTF-8, which not all tools can open: choose another"
        )


def _are_areas(value: Any) -> bool:
    numbers = isinstance(value, tuple) and len(value) == 2 and all(type(area) in (int, float) for area in value)
    return numbers and 0 < value[0] < value[1] <= 1


def _are_patterns(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(each, str) and each for each in value)


def missed(value: float, least: float, most: float) -> str:
    """The limit that a value misses."""
    return f"at most {most:,.0f}" if value > most else f"at least {least}"
