"""The command `moco`: which subcommand, and what becomes of errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from moco.cli import ablate, functions, pretrain
from moco.cli.parser import Parser, one_line, with_underscores
from moco.errors import INTERRUPTED, REFUSED, ConfigError, MocoError
from moco.printable import printable
from moco.version import __version__

# In the order of work: what each does, and an example.
COMMANDS = {
    "pretrain": ("learn a backbone from images", "moco pretrain photos --backbone resnet18 --out runs/photos"),
    "evaluate": ("did it help? kNN, probes, fine-tuning", "moco evaluate runs/photos --train photos --held-out 0.2"),
    "transfer": (
        "fine-tune for detection and segmentation, compare",
        "moco transfer detection --backbone runs/photos --train train.json --test test.json --out transfer/photos",
    ),
    "scenes": ("draw annotated images to try transfer on", "moco scenes scenes --train 400 --test 200"),
    "embed": ("features of all images, with their paths", "moco embed runs/photos photos --out features.npz"),
    "neighbours": ("nearest images, as a picture", "moco neighbours runs/photos photos --query photos/one.jpg"),
    "export": ("weights for other tools, checked by each", "moco export runs/photos --format timm --out weights"),
    "import": ("other projects' checkpoints as a run", "moco import checkpoint.pth --out runs/imported"),
    "pack": ("store a folder decoded once, for fast reading", "moco pack photos --out photos.pack"),
    "ablate": ("what a choice of the method contributes", "moco ablate momentum photos --out studies/momentum"),
}


class MainParser(Parser):
    """The command without a subcommand."""

    def format_help(self, *arguments: Any, **options: Any) -> str:
        """All subcommands, each with an example."""
        width = max(map(len, COMMANDS))
        lines = ["usage: moco COMMAND ...", "", "Momentum contrast: learn from images without labels.", ""]
        for name, (said, example) in COMMANDS.items():
            lines += [f"  {name:{width}}  {said}", f"  {'':{width}}    {example}"]
        return "\n".join([*lines, "", "moco COMMAND --help lists a command's options, moco --version the version.", ""])


def needs_pytorch(arguments: Sequence[str]) -> bool:
    """Whether the command will load PyTorch: not for help."""
    return bool(arguments) and arguments[0] in COMMANDS and not {"-h", "--help"} & set(arguments)


def first_line(arguments: Sequence[str]) -> str:
    """What a command that trains says before it loads anything slow; nothing of the others, and where it is silent."""
    if arguments[0] != "pretrain" or {"--quiet", "--print_config", "--print-config"} & set(arguments):
        return ""
    return f"moco {__version__}: looking at {printable(pretrain.subject(list(arguments)))}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 an error that the user can cure and nothing written, 1 such an
    error where something was begun, 3 out of the time that it was given, 130 ended by Ctrl-C with all that can be
    resumed saved. Any other Ctrl-C is raised: see `moco.__main__`.
    """
    arguments = with_underscores(list(sys.argv[1:] if argv is None else argv))
    try:
        parser, subparsers = _parsers(arguments)
        if not arguments:
            print(parser.format_help(), end="")
            return 0
        # Only what the user gave: the recipe fills in the rest, for the command as for Python.
        try:
            chosen = parser.parse_args(arguments, defaults="--print_config" in arguments)
        except RecursionError as error:
            raise ConfigError("--config: the file is nested too deeply for options: name another") from error
        return _call(chosen, arguments)
    except argparse.ArgumentError as error:
        said = printable(one_line(str(error), subparsers.get(arguments[0], parser)))
        print(f"moco: error: {said}", file=sys.stderr)
        return REFUSED
    except MocoError as error:
        print(f"moco: error: {error}", file=sys.stderr)
        return error.exit_code


def _parsers(arguments: list[str]) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The command's parser and those of its subcommands.

    Only the one in the arguments has its options: reading the signatures of the functions loads PyTorch.
    """
    parser = MainParser(exit_on_error=False, prog="moco", version=__version__)
    commands = parser.add_subcommands(required=True, dest="subcommand")
    subparsers: dict[str, ArgumentParser] = {}
    for name, (said, example) in COMMANDS.items():
        if name not in arguments[:1]:
            subparsers[name] = Parser(exit_on_error=False)
        elif name == "pretrain":
            subparsers[name] = pretrain.make_parser(arguments)
        elif name == "ablate":
            subparsers[name] = ablate.make_parser()
        else:
            subparsers[name] = functions.make_parser(functions.COMMANDS[name], example=example)
        commands.add_subcommand(name, subparsers[name], help=said)
    return parser, subparsers


def _call(chosen: Namespace, arguments: list[str]) -> int:
    """The exit code of the command."""
    name = chosen.subcommand
    if name == "ablate":
        return ablate.call(chosen[name], arguments)
    if name == "pretrain":
        return 0 if pretrain.call(chosen[name], arguments) else INTERRUPTED
    functions.call(functions.COMMANDS[name], chosen[name])
    return 0
