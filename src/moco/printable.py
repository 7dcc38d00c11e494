"""What is shown: text from outside (names of files, arguments) on one line, Unicode, without control codes; times."""

from __future__ import annotations

import unicodedata
from typing import Any

_UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control codes, the terminal's escape among them; surrogates; ends of lines
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # of the text around
_BY_NAME = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: object) -> str:
    r"""The text on one line, each character that a terminal would obey written out: \n, \x1b, \u202e, and \xff for a
    byte of a file's name that is no Unicode. Text without such characters stays as it is.
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(_written_out(character) for character in said)


def printable_lines(text: object) -> str:
    """The same for text of several lines, whose ends stay."""
    return "\n".join(printable(line) for line in str(text).split("\n"))


def plain_name(name: str) -> str:
    r"""A path as valid Unicode: bytes that are none are written out as \xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def plain_data(value: Any) -> Any:
    """Plain data for JSON or YAML with every text in it, keys too, as `plain_name` gives it."""
    if isinstance(value, str):
        return plain_name(value)
    if isinstance(value, dict):
        return {plain_data(name): plain_data(each) for name, each in value.items()}
    return [plain_data(each) for each in value] if isinstance(value, list | tuple) else value


def _written_out(character: str) -> str:
    if character in _BY_NAME:
        return _BY_NAME[character]
    if character not in _DIRECTION and unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python holds it in a file's name
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def duration(seconds: float) -> str:
    """A length of time in the largest unit that leaves two digits."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    for unit, size in (("min", 60.0), ("h", 3600.0)):
        if seconds < 99.5 * size:
            return f"{seconds / size:.{0 if seconds >= 9.95 * size else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"
