"""docs/weights.md says what the code does: its examples run, its commands are understood, its tables are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.cli.functions import COMMANDS, make_parser
from moco.cli.parser import with_underscores
from moco.export.formats import FORMATS
from moco.export.table import WRITERS
from tests.export.models import trained, written

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_examples_run_from_top_to_bottom(photos, monkeypatch, capsys):
    pytest.importorskip("timm")
    monkeypatch.chdir(photos.parent)
    generator = np.random.default_rng(1)
    Image.fromarray(generator.integers(0, 256, (90, 60, 3), dtype=np.uint8)).save(photos / "cats" / "one.jpg")
    Path("runs").mkdir()
    written(Path("runs/photos"), trained("resnet18", image_size=72))
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 6
    for part in blocks("python"):
        exec(compile(part, "weights.md", "exec"), names)
    assert "MoCo v1/v2 of the authors" in capsys.readouterr().out
    assert Path("neighbours.png").is_file()


def test_every_command_is_understood():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        _, name, *arguments = shlex.split(line)
        chosen = make_parser(COMMANDS[name]).parse_args(with_underscores(arguments))
        assert vars(chosen)


def test_the_tables_name_every_format():
    assert {name for name in FORMATS if f"| `{name}` |" in TEXT} == FORMATS.keys()
    assert {suffix for suffix in WRITERS if f"| `{suffix}` |" in TEXT} == WRITERS.keys()
