"""The command has a process of its own and settles it; what it computes is what a library call computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import moco

SPY = """
import os, sys
fork = os.fork
def noted():
    child = fork()
    if child:
        print("forked", file=sys.stderr)
    return child
os.fork = noted
from moco.cli import main
raise SystemExit(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_of_the_command_forks_and_equals_one_from_python_bit_for_bit(photos, tiny, tmp_path, workers):
    (photos / "cats" / "damaged.jpg").write_text("no image")
    tiny = {**tiny, "workers": workers}
    expected = moco.pretrain(photos, out=tmp_path / "python", quiet=True, **tiny)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in tiny.items()]
    made = subprocess.run(
        [sys.executable, "-c", SPY, "pretrain", str(photos), "--out", str(tmp_path / "command"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr.count("forked") == workers
    ours, theirs = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("command", "python"))
    assert ours["loss"] == theirs["loss"]
    weights = (load_file(path) for path in (tmp_path / "command" / "backbone.safetensors", expected.backbone))
    assert all(torch.equal(one, two) for one, two in zip(*map(dict.values, weights), strict=True))
    damaged = [(tmp_path / name / "skipped.jsonl").read_text() for name in ("command", "python")]
    assert damaged[0] == damaged[1] != ""
