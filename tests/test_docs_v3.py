"""docs/v3.md says what the code does: its step, its examples, its commands, its table of the recipes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from moco.cli.parser import with_underscores
from moco.cli.pretrain import make_parser
from moco.contrast import v3
from moco.recipes import configure
from tests.test_docs import blocks, body, inspect

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "v3.md").read_text(encoding="utf-8")


def test_the_step_is_shown_as_it_runs():
    _, _, rest = TEXT.partition("<!-- algorithm: moco_v3_loss -->\n")
    assert blocks(rest, "python")[0].strip() == body(inspect.getsource(v3.moco_v3_loss))


def test_the_examples_run_from_top_to_bottom(photos, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.chdir(photos.parent)
    names: dict[str, object] = {}
    parts = [part for part in blocks(TEXT, "python") if "import" in part]
    assert len(parts) == 2
    for part in parts:
        exec(compile(part, "v3.md", "exec"), names)
    assert names["backbone"].architecture == "v3/vit_tiny_patch8"  # type: ignore[attr-defined]


def test_every_command_is_understood():
    lines = [line for block in blocks(TEXT, "sh") for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        arguments = with_underscores(shlex.split(line)[1:])
        chosen = make_parser(arguments).parse_args(arguments[1:], defaults=False).as_dict()
        options = {name: value for name, value in chosen.items() if name not in ("data", "recipe", "config")}
        data, recipe = chosen.get("data"), chosen.get("recipe")
        assert configure(recipe or ("v2" if data else "picturebook"), options).mechanism == "moco-v3"


def test_the_table_says_what_the_recipes_set():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert len(rows) >= 15
    for names, *values in rows:
        for recipe, shown in zip(("v3", "v3-vit"), values, strict=True):
            config = configure(recipe, {})
            found = [getattr(config, name) for name in re.findall(r"`(\w+)`", names)]
            for value, text in zip(found, shown.strip().split(", "), strict=True):
                plain = str(value).lower() if isinstance(value, bool | str) else float(value)
                assert plain == (text if isinstance(plain, str) else float(text)), names
