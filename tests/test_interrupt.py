"""Ctrl-C in a real process: exit code 130, no traceback, nothing half-written under its own name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from moco.data.skipped import SkippedFiles
from tests.export.models import trained, written

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to whole consoles")

SECONDS = 10.0  # from the signal to the end: about one on a quiet machine


@pytest.fixture
def folder(tmp_path):
    """A run and far more images than are computed before the signal."""
    written(tmp_path / "run", trained("resnet18", image_size=64))
    images = np.random.default_rng(0).integers(0, 256, (6000, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(len(images)) % 2)
    return tmp_path


def interrupted(folder: Path, begun, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of `moco` with these arguments; it and its children, as far as Ctrl-C in a terminal would
    reach them, get SIGINT as soon as `begun(its stderr)`.
    """
    said = folder / "stderr.txt"
    with (
        said.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "moco", *arguments],
            cwd=folder,
            stderr=stderr,
            stdout=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        ) as process,
    ):
        latest = time.monotonic() + 240
        while not begun(said.read_text()) and process.poll() is None and time.monotonic() < latest:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        signalled = time.monotonic()
        code = process.wait(timeout=120)
        assert time.monotonic() - signalled < SECONDS
    return code, said.read_text()


def test_embed_keeps_what_is_done(folder):
    state = folder / "out.npz.parts" / "state.json"
    started = folder / "out.npz.parts" / "features.f32"
    embed = ("embed", "run", "images.npz", "--out", "out.npz", "--batch-size", "16", "--device", "cpu")
    code, said = interrupted(folder, lambda _: started.is_file() and started.stat().st_size > 0, *embed)
    assert code == 130, said
    assert "Traceback" not in said
    assert "the same command goes on" in said
    assert said.endswith("moco: stopped\n")
    assert not (folder / "out.npz").exists()
    assert state.is_file()
    assert SkippedFiles.read(folder / "out.npz.parts" / "skipped.jsonl").count == 0


def test_evaluate_stops(folder):
    code, said = interrupted(
        folder, lambda said: "train features" in said, "evaluate", "run", "--train", "images.npz", "--device", "cpu"
    )
    assert code == 130, said
    assert "Traceback" not in said
    assert said.endswith("moco: stopped\n")


SHOW_IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}  # a line for each module that has been loaded, by its name


def loaded(said: str, module: str) -> int:
    """How many processes have loaded a module."""
    return sum(line.rpartition("|")[2].strip() == module for line in said.splitlines())


PRETRAIN = ("pretrain", "images.npz", "--out", "new", "--backbone", "resnet_tiny", "--image-size", "16")
PRETRAIN += ("--batch-size", "8", "--dictionary-size", "16", "--steps", "100000", "--log-every", "1")


@pytest.mark.parametrize("module", ["jsonargparse", "torch.nn"])
def test_a_command_stops_while_it_is_being_loaded(folder, module):
    code, said = interrupted(folder, lambda said: loaded(said, module), *PRETRAIN, **SHOW_IMPORTS)
    assert "Traceback" not in said, said[said.index("Traceback") :]
    assert said.endswith("moco: stopped\n")
    assert code == 130
    assert not (folder / "new").exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_stops_within_a_second_or_two_and_can_be_resumed(folder, workers):
    metrics = folder / "new" / "metrics.jsonl"
    code, said = interrupted(
        folder, lambda _: metrics.is_file() and metrics.stat().st_size, *PRETRAIN, f"--workers={workers}"
    )
    assert code == 130, said
    assert "Traceback" not in said
    assert said.endswith("moco: stopped\n")
    assert "--resume" in said
    assert json.loads((folder / "new" / "summary.json").read_text())["finished"] is False
    assert (folder / "new" / "checkpoints" / "last.pt").is_file()


def test_a_process_started_without_ctrl_c_does_not_hear_it():
    program = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
import moco.cli
from moco.__main__ import run
moco.cli.main = lambda: os.kill(os.getpid(), signal.SIGINT) or 0
sys.exit(run())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=50).returncode == 0
