"""Ctrl-C in a real process: exit code 130, no traceback, nothing half-written under its own name."""

from __future__ import annotations

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


@pytest.fixture
def folder(tmp_path):
    """A run and far more images than are computed before the signal."""
    written(tmp_path / "run", trained("resnet18", image_size=64))
    images = np.random.default_rng(0).integers(0, 256, (6000, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(len(images)) % 2)
    return tmp_path


def interrupted(folder: Path, begun, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of `moco` with these arguments, sent SIGINT as soon as `begun(its stderr)`."""
    said = folder / "stderr.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        said.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "moco", *arguments], cwd=folder, stderr=stderr, stdout=stderr, env=environment
        ) as process,
    ):
        latest = time.monotonic() + 240
        while not begun(said.read_text()) and process.poll() is None and time.monotonic() < latest:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=120)
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
