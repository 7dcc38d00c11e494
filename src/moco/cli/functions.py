"""Subcommands that are a Python function: its signature gives the options, its docstring their help."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from moco.atomic import reason
from moco.cli.parser import Parser, described
from moco.errors import BrokenOffError
from moco.printable import plain_data, printable_lines

# Functions in modules that load without PyTorch. Each returns something that `str` makes readable and `as_dict()` plain
# data for `--json`; or None, and nothing is printed.
COMMANDS = {
    "pack": "moco.commands.pack:pack",
    "embed": "moco.commands.embed:embed",
    "export": "moco.commands.export:export_weights",
    "import": "moco.commands.import_weights:import_weights",
    "neighbours": "moco.commands.neighbours:neighbours",
    "evaluate": "moco.commands.evaluate:evaluate",
    "transfer": "moco.commands.transfer:transfer",
    "scenes": "moco.commands.scenes:scenes",
}
PYTHON_ONLY = {"preprocessing"}  # objects, which no text can name


def make_parser(command: str, *, example: str = "") -> ArgumentParser:
    """Required parameters are positional, truth values flags, the others options."""
    function = pkgutil.resolve_name(command)
    parameters = inspect.signature(function).parameters.values()
    flags = {parameter.name: parameter.default for parameter in parameters if isinstance(parameter.default, bool)}
    first = (function.__doc__ or "").partition("\n")[0]
    parser = Parser(exit_on_error=False, description=f"{first}\n\nExample: {example}" if example else first)
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={*PYTHON_ONLY, *flags})
    parser.add_flags(flags, described(function))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def call(command: str, chosen: Namespace) -> None:
    """Call the function with what the user gave and print what it returns."""
    options: dict[str, Any] = chosen.as_dict()
    as_json = options.pop("json", False)
    result = pkgutil.resolve_name(command)(**options)
    if result is not None:
        print_result(result, as_json=as_json)


def print_result(result: Any, *, as_json: bool) -> None:
    """Print what a command found out, as a table or as one JSON object.

    Raises:
        BrokenOffError: standard output takes no more, as a file on a full disk.
    """
    text = json.dumps(plain_data(result.as_dict()), indent=2) if as_json else printable_lines(result)
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would try once more at its end, and say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # as of `moco ... | head`, which has seen enough
            raise BrokenOffError(f"cannot print the result: {reason(error)}; the work itself is done") from error
