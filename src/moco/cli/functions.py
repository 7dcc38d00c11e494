"""Subcommands that are a Python function: its signature gives the options, its docstring their help."""

from __future__ import annotations

import dataclasses
import importlib
import json
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from moco.cli.parser import Parser


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        home: module of the function, which must load without PyTorch.
        function: its name. It returns something that `str` makes readable and `as_dict()` plain data for `--json`;
            or None, and nothing is printed.
    """

    home: str
    function: str


COMMANDS: dict[str, Command] = {
    "pack": Command("moco.commands.pack", "pack"),
    "embed": Command("moco.commands.embed", "embed"),
    "export": Command("moco.commands.export", "export_weights"),
    "import": Command("moco.commands.import_weights", "import_weights"),
    "neighbours": Command("moco.commands.neighbours", "neighbours"),
    "evaluate": Command("moco.commands.evaluate", "evaluate"),
}
PYTHON_ONLY: set[str | int] = {"preprocessing"}  # objects, which no text can name


def make_parser(command: Command, *, example: str = "") -> ArgumentParser:
    """Required parameters are positional, truth values flags, the others options."""
    function = getattr(importlib.import_module(command.home), command.function)
    everything = Parser(exit_on_error=False)
    everything.add_function_arguments(function, as_group=False, as_positional=True, skip=PYTHON_ONLY)
    truths = [action for action in everything._actions if isinstance(action.default, bool)]
    flags = {action.dest: action.default for action in truths}
    first = (function.__doc__ or "").partition("\n")[0]
    parser = Parser(exit_on_error=False, description=f"{first}\n\nExample: {example}" if example else first)
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=PYTHON_ONLY.union(flags))
    parser.add_flags(flags, {action.dest: action.help for action in truths})
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def call(command: Command, chosen: Namespace) -> bool:
    """Call the function with what the user gave and print what it returns."""
    options: dict[str, Any] = chosen.as_dict()
    as_json = bool(options.pop("json", False))
    result = getattr(importlib.import_module(command.home), command.function)(**options)
    if result is not None:
        print(json.dumps(result.as_dict(), indent=2) if as_json else result)
    return True
