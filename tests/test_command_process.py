"""What the command computes in a process of its own is what a library call computes, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import moco


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_of_the_command_equals_one_from_python_bit_for_bit(photos, tiny, tmp_path, workers):
    (photos / "cats" / "damaged.jpg").write_text("no image")
    tiny = {**tiny, "workers": workers}
    expected = moco.pretrain(photos, out=tmp_path / "python", quiet=True, **tiny)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in tiny.items()]
    command = [sys.executable, "-m", "moco", "pretrain", str(photos), "--out", str(tmp_path / "command"), *options]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert made.returncode == 0, made.stderr
    run = moco.Run(tmp_path / "command")
    assert run.config == expected.config
    assert run.summary["loss"] == expected.summary["loss"]
    one, two = load_file(run.weights), load_file(expected.weights)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    damaged = [(path / "skipped.jsonl").read_text() for path in (run.path, expected.path)]
    assert damaged[0] == damaged[1] != ""
