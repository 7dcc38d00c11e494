"""The command line: parse, call, print. No logic."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from moco.config import Config
from moco.errors import MocoError
from moco.recipes import RECIPES, configure, default_recipe
from moco.version import __version__

# OpenMP threads that spin long while they wait slow a busy machine down many times over; threads that never spin slow
# a quiet one (docs/log.md, 2026-11-24).
SHORT_WAITING = ("GOMP_SPINCOUNT", "1000")
FLAGS = ("--resume", "--quiet", "--print_config", "--help")  # options without a value
INTERRUPTED = 130  # the shell's code for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 an error that the user can cure, 130 ended by Ctrl-C."""
    os.environ.setdefault(*SHORT_WAITING)  # read when PyTorch is loaded, which has not happened yet
    arguments = _with_underscores(list(sys.argv[1:] if argv is None else argv))
    try:
        parser, pretrain_parser = _parsers(arguments)
        if not arguments:
            parser.print_help()
            return 0
        # Only what the user gave: the recipe fills in the rest, for the command as for Python.
        chosen = parser.parse_args(arguments, defaults="--print_config" in arguments)
        return _pretrain(chosen[chosen.subcommand], arguments)
    except argparse.ArgumentError as error:
        print(f"moco: error: {_one_line(str(error), pretrain_parser)}", file=sys.stderr)
        return 2
    except MocoError as error:
        print(f"moco: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moco: stopped", file=sys.stderr)
        return INTERRUPTED


class _Parser(ArgumentParser):
    """Shows options with dashes, as they are usually typed; underscores work too."""

    def format_help(self, *arguments: Any, **options: Any) -> str:
        shown = super().format_help(*arguments, **options)
        return re.sub(r"--\w+", lambda match: match.group().replace("_", "-"), shown)


def _parsers(arguments: list[str]) -> tuple[ArgumentParser, ArgumentParser]:
    """The command's parser and that of `pretrain`, whose defaults are those of the recipe in the arguments."""
    parser = _Parser(
        exit_on_error=False, prog="moco", description="Momentum contrast on your images.", version=__version__
    )
    pretrain = _Parser(
        exit_on_error=False,
        description=(
            "Pretrain an encoder on images without labels. DATA: a folder (nested, with or without classes), a "
            ".npy or .npz array, the name of a torchvision data set (downloaded), or nothing for the picture book."
        ),
    )
    pretrain.add_argument("--config", action="config", help="YAML file with options")
    pretrain.add_argument("data", nargs="?", type=str | None, default=None, metavar="DATA", help="images to learn from")
    pretrain.add_argument("--out", type=str | None, default=None, help="run folder; default runs/NAME-RECIPE")
    pretrain.add_argument("--resume", action="store_true", help="continue the run in --out")
    pretrain.add_argument("--quiet", action="store_true", help="no progress bar and no messages")
    pretrain.add_class_arguments(Config, as_group=False, instantiate=False)
    recipe = _scan(arguments, "--recipe")
    if recipe in RECIPES or (recipe is None and "--config" not in arguments):
        base = configure(recipe or default_recipe(_scan_data(arguments)), {})
        pretrain.set_defaults({name: getattr(base, name) for name in base.__dataclass_fields__})
    commands = parser.add_subcommands(required=True, dest="subcommand")
    commands.add_subcommand("pretrain", pretrain, help="learn an encoder from a folder of images")
    return parser, pretrain


def _pretrain(chosen: Namespace, arguments: list[str]) -> int:
    options: dict[str, Any] = {name: value for name, value in chosen.as_dict().items() if name != "config"}
    own = {name: options.pop(name, None) for name in ("data", "out", "recipe", "resume", "quiet")}
    own["data"] = _scan_data(arguments) or own["data"] or _data_of(chosen.get("config"))
    from moco.commands import pretrain

    run = pretrain(
        own["data"],
        out=own["out"],
        recipe=own["recipe"],
        resume=bool(own["resume"]),
        quiet=bool(own["quiet"]),
        **options,
    )
    return 0 if run.finished else INTERRUPTED


def _data_of(configs: Any) -> str | None:
    """DATA of the last configuration file that names one: the parser lets an absent argument hide it."""
    for path in reversed(configs or []):
        stored = yaml.safe_load(Path(str(path)).read_text(encoding="utf-8"))
        if stored.get("data") is not None:
            return str(stored["data"])
    return None


def _one_line(message: str, parser: ArgumentParser) -> str:
    """The first line of the parser's message, with the nearest option names where one is unknown."""
    first = message.strip().splitlines()[0]
    unknown = re.search(r"[Uu]nrecognized arguments?: (--\w+)", message)
    if unknown is None:
        return " ".join(message.split())
    options = [option for action in parser._actions for option in action.option_strings]
    near = [name.replace("_", "-") for name in difflib.get_close_matches(unknown[1], options)]
    return first.replace("_", "-") + (f"; did you mean {', '.join(near)}?" if near else "")


def _with_underscores(arguments: list[str]) -> list[str]:
    """`--image-size` and `--image_size` are the same option."""
    return [
        name.replace("-", "_").replace("__", "--", 1) + equals + value if argument.startswith("--") else argument
        for argument in arguments
        for name, equals, value in [argument.partition("=")]
    ]


def _scan(arguments: list[str], option: str) -> str | None:
    """The value of an option before the parser exists, because its defaults depend on it."""
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
    return None


def _scan_data(arguments: list[str]) -> str | None:
    """The first argument after the command's name that is neither an option nor an option's value."""
    value_expected = False
    for argument in arguments[1:]:
        if not argument.startswith("-") and not value_expected:
            return argument
        value_expected = argument.startswith("--") and "=" not in argument and argument not in FLAGS
    return None
