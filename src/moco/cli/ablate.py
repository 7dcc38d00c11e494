"""`moco ablate`: its values are read as `moco pretrain` reads the options of the same names."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from moco.cli.functions import print_result
from moco.cli.parser import Parser, one_line
from moco.cli.pretrain import HINTS
from moco.errors import ConfigError
from moco.sweep.settings import Launcher, check_field
from moco.sweep.studies import STUDIES, VARIED, study_names


def make_parser() -> ArgumentParser:
    """The parser."""
    known = ", ".join(STUDIES)
    said = (
        "Pretrain at every point of a grid and compare. The same command goes on with what is not finished. "
        "Exit code 0: all runs have ended; 3: out of time; 130: Ctrl-C."
    )
    parser = Parser(exit_on_error=False, description=said)
    text, several = {"type": str | None}, {"action": "append", "type": str}
    add: Any = parser.add_argument
    add("study", nargs="?", metavar="STUDY", help=f"{known}, or several with commas", **text)
    add("data", nargs="?", metavar="DATA", help="images to learn from; default the picture book", **text)
    add("--out", help="folder of the grid (required)", **text)
    add("--recipe", help="of all runs, as for moco pretrain", **text)
    add("--set", metavar="FIELD=VALUE", help="an option of moco pretrain for all runs", **several)
    add("--vary", metavar="FIELD=V1,V2", help="a grid over an option, instead of STUDY", **several)
    add("--values", dest="of_study", metavar="[STUDY=]V1,V2", help="instead of the study's own values", **several)
    add("--seeds", type=str, default="0", metavar="S1,S2", help="of each point")
    add("--jobs", type=int, default=1, help="runs side by side, which share the cores")
    add("--minutes", type=float | None, help="stop after so many, with checkpoints")
    add("--launcher", type=Launcher, default="local", help="local (processes here) or slurm (jobs of a cluster)")
    add("--slurm", metavar="NAME=VALUE", help="a parameter of submitit for the jobs of a cluster", **several)
    flags = {
        "linear": "a linear probe after each run, beside kNN",
        "dry_run": "print plan and budget, run nothing",
        "retry_failed": "try failed runs again",
        "quiet": "no progress bar and no messages",
        "json": "print one JSON object instead of tables",
    }
    parser.add_flags({flag: flag == "linear" for flag in flags}, flags)
    return parser


def call(chosen: Namespace, arguments: list[str]) -> int:
    """Run the grid; returns the exit code."""
    given: dict[str, Any] = chosen.as_dict()
    if not given.get("out"):
        raise ConfigError("ablate without out: name the folder of the grid, as in --out ablations/momentum")
    as_json, study, data = given.pop("json", False), given.pop("study", None), given.pop("data", None)
    options = read_options(
        study, {name: given.pop(name, None) for name in ("set", "vary", "of_study", "seeds", "slurm")}
    )
    from moco.commands.ablate import ablate

    result = ablate(study, data, command=shlex.join(["moco", *arguments]), **options, **given)
    print_result(result, as_json=as_json)
    return result.exit_code


def read_options(study: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The options that hold values of other options: options, vary, values, seeds, slurm.

    Raises:
        ConfigError: an unknown name, or a value of the wrong type.
    """
    options = {name: read(name, text) for name, text in _pairs("set", given["set"]).items()}
    vary = {name: read_list(name, text) for name, text in _pairs("vary", given["vary"]).items()}
    values: dict[str, list[Any]] = {}
    for text in given["of_study"] or []:
        stated, _, listed = text.rpartition("=")
        names = study_names(stated or study or "") if stated or study else ()
        if len(names) != 1:
            raise ConfigError(f"values={text}: say for which study, as in --values queue=256,1024")
        field = VARIED.get(names[0])
        values[names[0]] = read_list(field, listed) if field else [listed]
    try:
        seeds = tuple(int(seed) for seed in str(given["seeds"] or "0").split(","))
    except ValueError as error:
        raise ConfigError(f"seeds={given['seeds']}: expected whole numbers with commas, as in 0,1") from error
    slurm = {name: yaml.safe_load(text) for name, text in _pairs("slurm", given["slurm"]).items()}
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
    parser.add_argument(f"--{field}", type=HINTS[field])
    try:
        return parser.parse_args([f"--{field}={text}"], defaults=False)[field]
    except argparse.ArgumentError as error:
        raise ConfigError(one_line(str(error), parser)) from error


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ConfigError(f"{option} {text}: expected FIELD=VALUE, as in --{option} temperature=0.1")
        if name in pairs:
            raise ConfigError(f"{option} {name}: given twice, drop one")
        pairs[name] = value
    return pairs
