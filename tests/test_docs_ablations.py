"""docs/ablations.md: its code runs, its commands are understood, its lists are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import moco
from moco.cli import main
from moco.errors import ConfigError
from moco.sweep import grid
from moco.sweep.studies import BUILT_IN, PUBLISHED_MOMENTUM, PUBLISHED_TEMPERATURE, SIZES, TOGETHER
from tests.sweep.grids import TINY, here
from tests.test_docs import ROOT, SMALL, blocks

__all__ = ["here"]
PAGE = ROOT / "docs" / "ablations.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINES = [line.strip() for block in blocks(TEXT, "sh") for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line for line in LINES if line.startswith("moco ablate")]


def test_the_python_on_the_page_runs(photos, monkeypatch, here):
    monkeypatch.chdir(photos.parent)
    whole = moco.ablate
    small = {name: value for name, value in SMALL.items() if name != "dictionary_size"} | {"dictionary_size": 8}
    small |= {name: TINY[name] for name in ("precision", "layout", "workers")}

    def quick(*arguments, options, **rest):
        return whole(*arguments, quiet=True, **rest, options={**options, **small, "backbone": "resnet_tiny"})

    monkeypatch.setitem(vars(moco), "ablate", quick)
    for part in blocks(TEXT, "python"):
        exec(compile(part, PAGE.name, "exec"), {})
    named = re.findall(r"^\| `([^|]+) \|", TEXT.partition("| file |")[2].partition("\n\n")[0], re.MULTILINE)
    files = {name.rstrip("/") for cell in named for name in re.findall(r"[\w./]+", cell)}
    there = {path.name.replace("momentum.", "STUDY.") for path in Path("ablations/momentum").iterdir()}
    assert there == files


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_on_the_page_is_understood(command, monkeypatch):
    given = []

    def stop(settings, commands):
        given.append(settings)
        raise ConfigError("far enough")

    monkeypatch.setattr(grid.Grid, "prepare", stop)
    assert main(shlex.split(command)[1:]) == 2
    assert given, command


def test_the_page_names_all_studies_and_their_values():
    table = TEXT.partition("| STUDY |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {*BUILT_IN, *TOGETHER}
    for values in (PUBLISHED_MOMENTUM, PUBLISHED_TEMPERATURE["mlp"], SIZES):
        assert ", ".join(f"{value:,}" if value > 1 else f"{value:g}" for value in values) in table
    assert len(COMMANDS) == 6
