"""docs/data.md says what the code does: its examples run, its commands are understood, its tables are the format."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from moco.cli import functions, main
from moco.data.pack_format import DAMAGED, DATA, INDEX, META, NAMES, ROW
from tests.test_docs import blocks

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "data.md").read_text(encoding="utf-8")


def rows(name: str) -> list[list[str]]:
    """Cells of the table under `<!-- keys: name -->`, without its head."""
    _, _, rest = TEXT.partition(f"<!-- keys: {name} -->")
    lines = rest.strip().partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_runs_from_top_to_bottom(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    names: dict[str, object] = {}
    for part in blocks(TEXT, "python"):
        exec(compile(part, "data.md", "exec"), names)
    names["loader"] = None
    said = capsys.readouterr().out.splitlines()
    promised = re.findall(r"^print.*# (.+)$", TEXT, re.MULTILINE)
    assert said == promised
    assert len(promised) == 2


def test_the_commands_are_understood(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    lines = [line for block in blocks(TEXT, "sh") for line in block.splitlines()]
    assert len(lines) == 2
    assert main(shlex.split(lines[0])[1:]) == 0
    with pytest.raises(SystemExit) as end:
        main([*shlex.split(lines[1])[1:], "--print_config"])
    assert end.value.code == 0


def test_every_option_in_the_text_exists():
    options = {
        name for action in functions.make_parser(functions.COMMANDS["pack"])._actions for name in action.option_strings
    }
    said = {name.replace("-", "_").replace("__", "--", 1) for name in re.findall(r"`(--[a-z-]+)", TEXT)}
    assert said >= {"--short_side", "--quality", "--format", "--verify", "--replace", "--detach"}
    assert said <= options


def test_the_tables_are_the_format(photos, monkeypatch):
    assert [row[0].strip("`") for row in rows("pack")] == [META, DATA, INDEX, NAMES, DAMAGED]
    fields = [(field, row[1]) for row in rows("row") for field in re.findall(r"`(\w+)`", row[0])]
    assert fields == [(name, str(ROW[name])) for name in ROW.names]
    assert f"{ROW.itemsize} bytes an image" in TEXT


def test_the_figures_are_those_that_were_measured():
    """Every row of the table of costs stands in the stored results, and the other way round."""
    results = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "data_path-cpu.json"
    stored = json.loads(results.read_text(encoding="utf-8"))["cpu_ms"]
    shown = {name.strip("`"): cost for name, cost, _ in rows("costs")}
    assert shown == {name: f"{cost:.2f}" for name, cost in stored.items()}
