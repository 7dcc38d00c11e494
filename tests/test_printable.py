"""Text from outside as it may be shown."""

from __future__ import annotations

import json

import pytest

from moco.errors import DataError
from moco.printable import plain_data, plain_name, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b", r"\x9b"),
        ("\udcff", r"\xff"),
        ("\u202egpj.png", r"\u202egpj.png"),
        ("\u2028", r"\u2028"),
        ("Füße 写真.png", "Füße 写真.png"),
        ("a\u200cb", "a\u200cb"),  # a letter of Persian words
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert printable(text) == shown


def test_lines_of_a_table_stay_lines():
    assert printable_lines("a\n\x07b") == "a\n\\x07b"


def test_every_error_is_one_line():
    assert str(DataError("a\nb\x1b[31m: gone")) == r"a\nb\x1b[31m: gone"


def test_plain_data_is_json_for_strict_readers():
    said = plain_data({"\udcff": ["a\udcfe", ("b", 3, None)]})
    assert said == {r"\xff": [r"a\xfe", ["b", 3, None]]}
    assert "\\ud" not in json.dumps(said)
    assert plain_name("写真") == "写真"
