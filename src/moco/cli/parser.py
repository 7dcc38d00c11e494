"""How options are written, and what is said of a wrong one."""

from __future__ import annotations

import difflib
import re
from typing import Any

from jsonargparse import ArgumentParser


class Parser(ArgumentParser):
    """Shows options with dashes, as they are usually typed; underscores work too."""

    def format_help(self, *arguments: Any, **options: Any) -> str:
        """The help text."""
        shown = super().format_help(*arguments, **options)
        return re.sub(r"--\w+", lambda match: match.group().replace("_", "-"), shown)


def one_line(message: str, parser: ArgumentParser) -> str:
    """The parser's message on one line, with the nearest option names where one is unknown."""
    first = message.strip().splitlines()[0]
    unknown = re.search(r"[Uu]nrecognized arguments?: (--\w+)", message)
    if unknown is None:
        return " ".join(message.split())
    options = [option for action in parser._actions for option in action.option_strings]
    near = [name.replace("_", "-") for name in difflib.get_close_matches(unknown[1], options)]
    return first.replace("_", "-") + (f"; did you mean {', '.join(near)}?" if near else "")


def with_underscores(arguments: list[str]) -> list[str]:
    """`--image-size` and `--image_size` are the same option."""
    return [
        name.replace("-", "_").replace("__", "--", 1) + equals + value if argument.startswith("--") else argument
        for argument in arguments
        for name, equals, value in [argument.partition("=")]
    ]
