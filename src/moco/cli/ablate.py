"""`moco ablate`: its values are read as `moco pretrain` reads the options of the same names."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any, Literal, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from moco.cli.parser import Parser, one_line
from moco.config import Config
from moco.errors import ConfigError
from moco.sweep.settings import check_field, field_of_values
from moco.sweep.studies import STUDIES, study_names


def make_parser() -> ArgumentParser:
    """The parser."""
    known = ", ".join(STUDIES)
    parser = Parser(
        exit_on_error=False,
        description=(
            "Pretrain at every point of a grid and compare. The same command goes on with what is not finished. "
            "Exit code 0: all runs have ended; 3: out of time; 130: Ctrl-C."
        ),
    )
    text: dict[str, Any] = {"type": str | None, "default": None}
    several: dict[str, Any] = {"action": "append", "type": str, "default": None}
    parser.add_argument("study", nargs="?", metavar="STUDY", help=f"{known}, or several with commas", **text)
    parser.add_argument(
        "data", nargs="?", metavar="DATA", help="images to learn from; default the picture book", **text
    )
    parser.add_argument("--out", help="folder of the grid (required)", **text)
    parser.add_argument("--recipe", help="of all runs, as for moco pretrain", **text)
    parser.add_argument("--set", metavar="FIELD=VALUE", help="an option of moco pretrain for all runs", **several)
    parser.add_argument("--vary", metavar="FIELD=V1,V2", help="a grid over an option, instead of STUDY", **several)
    parser.add_argument(
        "--values", dest="study_values", metavar="[STUDY=]V1,V2", help="instead of the study's own values", **several
    )
    parser.add_argument("--seeds", type=str, default="0", metavar="S1,S2", help="of each point")
    parser.add_argument("--linear", action="store_true", help="a linear probe after each run (the default)")
    parser.add_argument("--no_linear", action="store_true", help="no linear probe, kNN only")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the cores")
    parser.add_argument("--minutes", type=float | None, default=None, help="stop after so many, with checkpoints")
    launchers = Literal["local", "slurm"]
    parser.add_argument("--launcher", type=launchers, default="local", help="processes here, or jobs of a cluster")
    parser.add_argument("--slurm", metavar="NAME=VALUE", help="a parameter of submitit for the jobs", **several)
    for flag, said in (
        ("dry_run", "print plan and budget, run nothing"),
        ("retry_failed", "try failed runs again"),
        ("quiet", "no progress bar and no messages"),
        ("json", "print one JSON object instead of tables"),
    ):
        parser.add_argument(f"--{flag}", action="store_true", help=said)
    return parser


def call(chosen: Namespace, arguments: list[str]) -> int:
    """Run the grid; returns the exit code."""
    given: dict[str, Any] = chosen.as_dict()
    if not given.get("out"):
        raise ConfigError("ablate without out: name the folder of the grid, as in --out ablations/momentum")
    if given.get("linear") and given.get("no_linear"):
        raise ConfigError("linear and no_linear: give one of the two")
    options = read_options(given)
    options |= {name: bool(given.get(name)) for name in ("dry_run", "retry_failed", "quiet")}
    options |= {name: given[name] for name in ("recipe", "jobs", "minutes", "launcher") if name in given}
    from moco.commands.ablate import ablate

    result = ablate(
        given.get("study"),
        given.get("data"),
        out=given["out"],
        linear=not given.get("no_linear"),
        command=shlex.join(["moco", *arguments]),
        **options,
    )
    print(json.dumps(result.as_dict(), indent=2) if given.get("json") else result)
    return result.exit_code


def read_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options that hold values of other options: options, vary, values, seeds, slurm.

    Raises:
        ConfigError: an unknown name, or a value of the wrong type.
    """
    options = {name: read(name, text) for name, text in _pairs("set", given.get("set"))}
    vary = {name: read_list(name, text) for name, text in _pairs("vary", given.get("vary"))}
    values: dict[str, list[Any]] = {}
    for text in given.get("study_values") or []:
        study, equals, listed = text.rpartition("=")
        names = (study,) if equals else study_names(given.get("study") or "") if given.get("study") else ()
        if len(names) != 1:
            raise ConfigError(f"values={text}: say for which study, as in --values queue=256,1024")
        study_names(names[0])
        values[names[0]] = read_list(field_of_values(names[0]), listed)
    try:
        seeds = tuple(int(seed) for seed in str(given.get("seeds", "0")).split(","))
    except ValueError as error:
        raise ConfigError(f"seeds={given['seeds']}: expected whole numbers with commas, as in 0,1") from error
    slurm = {name: yaml.safe_load(text) for name, text in _pairs("slurm", given.get("slurm"))}
    return {"options": options, "vary": vary, "values": values, "seeds": seeds, "slurm": slurm}


def read_list(field: str, text: str) -> list[Any]:
    """Values with commas, each as `read` takes it."""
    return [read(field, word.strip()) for word in text.split(",") if word.strip()]


def read(field: str, text: str) -> Any:
    """The value of a field of `Config`, of the type that `moco pretrain` gives it.

    Raises:
        ConfigError: no such field, or no such value; the nearest ones are suggested.
    """
    check_field(field)
    parser = Parser(exit_on_error=False)
    hint = get_type_hints(Config)[field]
    parser.add_argument(f"--{field}", type=hint)
    try:
        return parser.parse_args([f"--{field}={text}"], defaults=False)[field]
    except argparse.ArgumentError as error:
        raise ConfigError(one_line(str(error), parser)) from error


def _pairs(option: str, given: list[str] | None) -> list[tuple[str, str]]:
    pairs = []
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: expected FIELD=VALUE, as in --{option} temperature=0.1")
        pairs.append((name.strip().replace("-", "_"), value))
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{option} {name}: given twice, drop one")
    return pairs
