"""The command `moco`: which subcommand, and what becomes of errors."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentParser, Namespace

from moco.cli import ablate, functions, pretrain
from moco.cli.parser import Parser, one_line, with_underscores
from moco.errors import INTERRUPTED, MocoError
from moco.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 an error that the user can cure, 3 out of the time that it was
    given, 130 ended by Ctrl-C with all that can be resumed saved. Any other Ctrl-C is raised: see `moco.__main__`.
    """
    arguments = with_underscores(list(sys.argv[1:] if argv is None else argv))
    try:
        parser, subparsers = _parsers(arguments)
        if not arguments:
            parser.print_help()
            return 0
        # Only what the user gave: the recipe fills in the rest, for the command as for Python.
        chosen = parser.parse_args(arguments, defaults="--print_config" in arguments)
        return _call(chosen, arguments)
    except argparse.ArgumentError as error:
        print(f"moco: error: {one_line(str(error), subparsers.get(arguments[0], parser))}", file=sys.stderr)
        return 2
    except MocoError as error:
        print(f"moco: error: {error}", file=sys.stderr)
        return 2


def _parsers(arguments: list[str]) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The command's parser and those of its subcommands.

    Only the one that is asked for has its options: reading the signatures of the functions loads PyTorch.
    """
    parser = Parser(
        exit_on_error=False, prog="moco", description="Momentum contrast on your images.", version=__version__
    )
    commands = parser.add_subcommands(required=True, dest="subcommand")
    makers: dict[str, tuple[Callable[[], ArgumentParser], str]] = {
        "pretrain": (lambda: pretrain.make_parser(arguments), "learn an encoder from a folder of images"),
        "ablate": (ablate.make_parser, "what a choice of the method contributes, in tables"),
    }
    for name, command in functions.COMMANDS.items():
        makers[name] = functools.partial(functions.make_parser, command), command.help
    subparsers = {}
    for name, (make, said) in makers.items():
        subparsers[name] = make() if name in arguments[:1] else Parser(exit_on_error=False)
        commands.add_subcommand(name, subparsers[name], help=said)
    return parser, subparsers


def _call(chosen: Namespace, arguments: list[str]) -> int:
    """The exit code of the command."""
    name = chosen.subcommand
    if name == "ablate":
        return ablate.call(chosen[name], arguments)
    if name == "pretrain":
        ended = pretrain.call(chosen[name], arguments)
    else:
        ended = functions.call(functions.COMMANDS[name], chosen[name])
    return 0 if ended else INTERRUPTED
