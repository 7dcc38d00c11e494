"""Ctrl-C in a real process: exit code 130, no traceback, nothing half-written under its own name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
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


SHOW_IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}  # a line for each module that has been loaded, by its name


def loaded(said: str, module: str) -> int:
    """How many processes have loaded a module."""
    return sum(line.rpartition("|")[2].strip() == module for line in said.splitlines())


@pytest.mark.parametrize("module", ["argparse", "yaml", "jsonargparse", "numpy", "torch._C", "torch.nn"])
def test_a_command_stops_while_it_is_being_loaded(folder, module):
    command = ("pretrain", "images.npz", "--out", "new", "--backbone", "resnet_tiny", "--steps", "1000")
    code, said = interrupted(folder, lambda said: loaded(said, module), *command, **SHOW_IMPORTS)
    assert "Traceback" not in said, said[said.index("Traceback") :]
    assert said.endswith("moco: stopped\n")
    assert code == 130


def test_lanes_that_are_being_loaded_say_nothing(folder):
    if not sys.platform.startswith("linux"):
        pytest.skip("lanes need Linux")
    command = ("pretrain", "images.npz", "--out", "new", "--backbone", "resnet_tiny", "--batch-size", "32")
    options = ("--steps", "1000", "--lanes", "on", "--workers", "1")
    environment = {**SHOW_IMPORTS, "OMP_NUM_THREADS": "2"}
    code, said = interrupted(folder, lambda said: loaded(said, "numpy") > 1, *command, *options, **environment)
    assert "Traceback" not in said, said[said.index("Traceback") :]
    assert loaded(said, "numpy") > 1, said
    assert "moco: stopped\n" in said
    assert code == 130


# Ctrl-C in the middle of a command, whose work is `work`.
PROGRAM = """
import os, signal, sys, time
import moco.cli
from moco.__main__ import run

def press():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

class Fragile:
    def __del__(self):
        press()

def work():
{work}

moco.cli.main = work
sys.exit(run())
"""


def ended(work: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command that does this."""
    text = PROGRAM.format(work=textwrap.indent(textwrap.dedent(work), "    "))
    process = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=50)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize(
    "work",
    [
        "press()",
        "try:\n    press()\nexcept BaseException:\n    pass\ntime.sleep(60)",
        "Fragile()\ntime.sleep(60)",
        "try:\n    press()\nexcept BaseException:\n    raise ImportError from None",
        "exec('press()')",
    ],
    ids=["plain", "swallowed", "in a destructor", "turned into another error", "in code made from text"],
)
def test_an_interrupt_comes_through(work):
    assert ended(work) == (130, "", "moco: stopped\n")


@pytest.mark.parametrize(
    "work",
    [
        "try:\n    press()\nexcept KeyboardInterrupt:\n    time.sleep(1)\n    print(1)\n    raise",
        "try:\n    press()\nfinally:\n    try:\n        1 / 0\n    except ArithmeticError:\n        time.sleep(1)\n"
        "    print(1)",
    ],
    ids=["except", "finally"],
)
def test_what_is_saved_on_the_way_out_is_saved(work):
    assert ended(work) == (130, "1\n", "moco: stopped\n")


def test_errors_that_are_no_interrupt_are_still_shown():
    code, _, said = ended("raise ValueError('a mistake of ours')")
    assert code == 1
    assert said.endswith("ValueError: a mistake of ours\n")
    assert "Exception ignored" in ended("class Bad:\n    def __del__(self):\n        1 / 0\nBad()\nreturn 0")[2]


def test_a_process_started_without_ctrl_c_does_not_hear_it():
    text = "signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    work = "    os.kill(os.getpid(), signal.SIGINT)\n    return 0"
    command = [sys.executable, "-c", f"import os, signal, sys; {text}", PROGRAM.format(work=work)]
    assert subprocess.run(command, timeout=50).returncode == 0


def test_ctrl_c_while_the_process_ends_is_quiet_too():
    assert ended("import atexit\natexit.register(press)\nprint(1)\nreturn 0") == (130, "1\n", "")
