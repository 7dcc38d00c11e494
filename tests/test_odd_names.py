"""Names with newlines, terminal escapes and bytes that are no UTF-8 go through every command."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

import moco
from moco.cli import main
from moco.errors import ConfigError
from moco.export.table import read_table

ODD = (b"a\nb", b"\x1b[2J", b"\xff", b"x")


@pytest.fixture
def odd(tmp_path):
    """A folder of two classes, an image of each a damaged one."""
    root = os.fsencode(tmp_path) + b"/na\x1b[31mme\n\xff"
    for number, kind in enumerate((b"cl\x07a\nss", b"\xfe")):
        os.makedirs(root + b"/" + kind)
        for place in range(8):
            file = os.fsdecode(root + b"/" + kind + b"/" + ODD[place % 4] + b"%d.png" % place)
            Image.new("RGB", (20, 20), (number * 200, place * 20, 9)).save(file)
    with open(root + b"/\xfe/da\x1bma\xffged\n.png", "wb") as damaged:
        damaged.write(b"x")
    return os.fsdecode(root)


def shown(capsys, *arguments):
    """What a command prints, which no terminal would obey."""
    assert main(list(arguments)) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert not [c for c in out + err if (ord(c) < 32 and c not in "\n\r") or 0xD800 <= ord(c) < 0xE000]
    return out


def test_odd_names_are_learnt_from_embedded_packed_and_shown(odd, tmp_path, tiny, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = "run\x1b[31m\n"
    del tiny["held_out"]
    moco.pretrain(odd, out=run, test=odd, loggers="csv", **tiny)
    out, err = capsys.readouterr()
    assert "\x1b[31m" not in out + err
    skipped = json.loads((tmp_path / run / "skipped.jsonl").read_text(encoding="utf-8"))
    assert skipped["path"] == "\\xfe/da\x1bma\\xffged\n.png"
    shown(capsys, "pretrain", "--out", run, "--resume")
    for suffix in ("npz", "pt", "parquet"):
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        said = json.loads(shown(capsys, "embed", run, odd, "--out", f"{run}/f.{suffix}", "--json", "--quiet"))
        assert said["images"] == 16
        assert "cl\x07a\nss/\\xff2.png" in read_table(tmp_path / run / f"f.{suffix}").paths
    shown(capsys, "neighbours", run, odd, "--out", "n.png", "--features", f"{run}/f.npz")
    shown(capsys, "pack", odd, "--out", f"{run}/pack")
    shown(capsys, "pack", f"{run}/pack", "--verify")
    shown(capsys, "evaluate", run, "--train", odd, "--num-neighbors", "3", "--baselines", "none")


@pytest.mark.parametrize("command", ["pretrain {} --out", "embed x {} --out", "pack {} --out", "import x --out"])
def test_what_is_made_has_a_name_that_every_tool_can_open(command, tmp_path, capsys):
    arguments = [*command.format(tmp_path).split(), os.fsdecode(os.fsencode(tmp_path) + b"/\xff.npz")]
    assert main(arguments) == 2
    assert "\\xff.npz: the name is not UTF-8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_option_with_escapes_is_refused_without_them(capsys):
    assert main(["pretrain", "--ba\x1b[31m\nd"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ConfigError, match="expected a path"):
        moco.pretrain(out=3)
