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


PIPES = """
import os, signal, subprocess, sys
program, stream = sys.argv[1:]
read, write = os.pipe()
os.close(read)
other = subprocess.PIPE
streams = {"stdout": (write, other), "stderr": (other, write), "both": (write, write)}[stream]
made = subprocess.run([sys.executable, "-c", program], stdout=streams[0], stderr=streams[1], timeout=100)
left = (made.stdout or b"") + (made.stderr or b"")
assert b"Broken pipe" not in left and b"Traceback" not in left, left
sys.exit(made.returncode)
"""
SAYS = """
import sys
import moco.cli
from moco.__main__ import run
def main():
    print("many lines of a result\\n" * 10_000)
    print("progress", file=sys.stderr, flush=True)
    return 0
moco.cli.main = main
sys.exit(run())
"""
HELP = "import sys; sys.argv = ['moco', 'pretrain', '--print_config']; from moco.__main__ import run; sys.exit(run())"


@pytest.mark.skipif(os.name == "nt", reason="no such pipes")
@pytest.mark.parametrize(("program", "stream"), [(SAYS, "stdout"), (SAYS, "stderr"), (SAYS, "both"), (HELP, "stdout")])
def test_a_reader_that_leaves_is_no_error(program, stream):
    """As of `moco ... | head`: the work is done to its end, without a word to nobody."""
    assert subprocess.run([sys.executable, "-c", PIPES, program, stream], timeout=120).returncode == 0
