"""How options are written, and what is said of a wrong one."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, Namespace

_LIST = "[ITEM,...]"  # how jsonargparse shows a list
# What the parser says, and what we say of the same.
_REWORDED = (
    (r'Parser key "config": File does not exist: (.*)', "--config {}: no such file; name a YAML file with options"),
    (
        r"^(unrecognized arguments: (?:true|false))$",
        "{}: options that are on or off take no value; off is --no-NAME",
    ),
    (r"^(unrecognized arguments: [^-].*)", "{}: more than the command takes, see --help"),
    (r"(--\w+).*: ignored explicit argument '([^']*)'", "{}={}: this option takes no value"),
    (r"argument (--\w+).*: expected one argument", "{}: its value is missing"),
)


class Formatter(DefaultHelpFormatter):
    """Help in the command line's words: no Python types, and by default instead of None."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(fill(line, width, indent) if line else "" for line in text.split("\n"))

    def _expand_help(self, action: argparse.Action) -> str:
        text, _, about = re.sub(r"\((required, )?type: ", "\0", super()._expand_help(action)).partition("\0")
        text, kind = text.removesuffix(" (default: False)").strip(), re.match(r"(int|float)\b", about)
        shown = [kind[1]] if kind else []
        default = re.search(r"default: (.*)\)$", about)
        if default is None or default[1] == "null":
            text = re.sub(r"\b(None|null) means", "by default", text)
        elif default[1] == "True":
            shown.append("on by default")
        elif default[1] not in ("False", "()", "[]"):
            shown.append("default " + re.sub(r"^[(\[](.*?),?[)\]]$", r"\1", default[1]).replace(", ", ","))
        return f"{text} ({', '.join(shown)})" if shown else text


class Parser(ArgumentParser):
    """Shows options with dashes, as they are usually typed; underscores work too. Lists are A,B,C or repeated."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, formatter_class=Formatter, **options)

    def format_help(self, *arguments: Any, **options: Any) -> str:
        """The help text."""
        shown = re.sub(rf",\s+--\w+\+ {re.escape(_LIST)}", "", super().format_help(*arguments, **options))
        shown = shown.replace(_LIST, "A,B,...")
        return re.sub(r"--\w+", lambda match: match.group().replace("_", "-"), shown)

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """The values of the arguments."""
        hints = {f"--{action.dest}": getattr(action, "_typehint", None) for action in self._actions}
        lists = {name: hint for name, hint in hints.items() if _is_list(hint)}
        return super().parse_args(None if args is None else _bracketed(list(args), lists), *others, **options)

    def add_flags(self, defaults: Mapping[str, bool], said: Mapping[str, str | None]) -> None:
        """Options without a value: --NAME, and --no_NAME of those that are on by default; `said` is their help."""
        for name, default in defaults.items():
            if default:
                self.add_argument(f"--{name}", action=ActionYesNo, default=True, help=said.get(name))
            else:
                self.add_argument(f"--{name}", action="store_true", help=said.get(name))


def described(item: Any) -> dict[str, str | None]:
    """What the docstring of a function or class says of each of its parameters or attributes."""
    return {part.arg_name: part.description for part in docstring_parser.parse(item.__doc__).params}


def one_line(message: str, parser: ArgumentParser) -> str:
    """The parser's message on one line and in our words: what came, what was expected, the nearest names."""
    said = " ".join(message.split())
    unknown = re.search(r"[Uu]nrecognized arguments?: (--\w+)", said)
    if unknown is not None:
        options = [option for action in parser._actions for option in action.option_strings if option[-1] != "+"]
        return said.replace("_", "-") + _nearest(unknown[1], options)
    command = re.search(r"invalid choice: '(\S+)' \(choose from (.*)\)", said)
    if command is not None and "subcommand" in said:
        names = re.findall(r"[\w-]+", command[2])
        return f"no command {command[1]}: choose one of {', '.join(names)}" + _nearest(command[1], names)
    in_file = re.search(r"does not accept option '(\w+)'", said)
    if in_file is not None:
        names = [action.dest for action in parser._actions]
        return f"--config: no option {in_file[1]} in this command" + _nearest(in_file[1], names)
    missing = re.search(r"required: (.*)", said)
    if missing is not None:
        return f"{re.sub(r'[a-z]+[.]', '', missing[1]).upper()} is missing: see --help"
    for pattern, words in _REWORDED:
        found = re.search(pattern, said, re.IGNORECASE)
        if found is not None:
            return words.format(
                *(re.sub(r"(?<=\w)_", "-", part) if part[:2] == "--" else part for part in found.groups())
            )
    return _wrong_value(said) or said


def _wrong_value(said: str) -> str | None:
    """NAME=VALUE: what was expected; None where the message says something else."""
    key, value = re.search(r'"(?:\w+\.)*(\w+)":', said), re.search(r"(?:Got|Given) value: (.*)$", said)
    if key is None or value is None:
        return None
    choices = list(dict.fromkeys(re.findall(r"'([\w-]+)'", "".join(re.findall(r"Literal\[(.*?)\]", said)))))
    if choices:
        near, names = _nearest(value[1], choices), ", ".join(choices)
        if "<class 'int'>" in said:
            return f"{key[1]}={value[1]}: need a whole number or {names}{near}"
        return f"{key[1]}={value[1]}: choose one of {names}{near}"
    kind = "numbers" if "'float'" in said else "whole numbers" if "'int'" in said else None
    return None if kind is None else f"{key[1]}={value[1]}: only {kind} are possible"


def _nearest(word: str, names: Iterable[str]) -> str:
    near = [name.replace("_", "-") for name in difflib.get_close_matches(word, list(names))]
    return f"; did you mean {', '.join(near)}?" if near else ""


def with_underscores(arguments: list[str]) -> list[str]:
    """`--image-size` and `--image_size` are the same option."""
    return [
        name.replace("-", "_").replace("__", "--", 1) + equals + value if argument.startswith("--") else argument
        for argument in arguments
        for name, equals, value in [argument.partition("=")]
    ]


def _bracketed(arguments: list[str], lists: dict[str, Any]) -> list[str]:
    """`--rates 1,2 --rates 3` becomes --rates=[1,2,3], for the options in `lists`, which has their types; of text,
    a comma separates nothing.
    """
    waiting, kept = list(arguments), []
    found: dict[str, list[str]] = {}
    while waiting:
        name, equals, value = waiting.pop(0).partition("=")
        if name in lists and not equals and waiting and not waiting[0].startswith("--"):
            equals, value = "=", waiting.pop(0)
        if name in lists and equals and str in get_args(lists[name]):
            found.setdefault(name, []).append(json.dumps(value))
        elif name in lists and equals:
            found.setdefault(name, []).append(value.strip().removeprefix("[").removesuffix("]").strip(" ,"))
        else:
            kept.append(name + equals + value)
    return kept + [f"{name}=[{','.join(filter(None, values))}]" for name, values in found.items()]


def _is_list(hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return all(_is_list(part) for part in get_args(hint) if part is not NoneType)  # else one value is meant
    return get_origin(hint) in (list, tuple, Sequence)
