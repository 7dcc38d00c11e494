"""A run's config.yaml: its data as the user named them, and every option; also of earlier versions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from moco.config import Config
from moco.errors import RunError
from moco.recipes import configure

# Fields of earlier versions and the values of them that change nothing today.
DROPPED_FIELDS: dict[str, tuple[Any, ...]] = {"lanes": ("auto", "on", "off"), "color": ("exact",)}
OWN_VIEWS = "own_views: true"  # the line of config.yaml of a run with a transform of the user's


def read_config(path: Path) -> tuple[Config, str | None]:
    """The configuration of a run and its data as the user named them, from its config.yaml; also of earlier versions.

    Raises:
        RunError: no such file, or one that cannot be understood.
    """
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        data, recipe, _ = stored.pop("data"), stored.pop("recipe"), stored.pop("own_views", None)
        for name, harmless in DROPPED_FIELDS.items():
            if stored.pop(name, harmless[0]) not in harmless:
                raise RunError(f"{path} has a value of {name!r} that this version cannot honour: start a new run")
        stored.setdefault("channels", 3)  # of every run of earlier versions
        for name in ("knn_evaluations", "knn_images"):
            if stored.get(name) == "auto":
                del stored[name]
        if stored.get("compile") in ("auto", "off", "on"):
            stored["compile"] = stored["compile"] == "on"
        if not isinstance(data, str | None):
            raise TypeError(f"data is {data!r}")
        return configure(recipe, stored, strict=False), data
    except (OSError, ValueError, yaml.YAMLError, AttributeError, LookupError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise RunError(f"{path} cannot be read ({said}): restore it") from error


def write_config(config: Config, data: str | None, *, own_views: bool = False) -> str:
    """The text of config.yaml, which `read_config` takes back."""
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(config).items()}
    return yaml.safe_dump({"data": data, **plain}, sort_keys=False) + (f"{OWN_VIEWS}\n" if own_views else "")
