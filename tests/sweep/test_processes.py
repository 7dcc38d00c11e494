"""Processes of a grid: one that dies fails alone, none outlives the grid, submitit does the same."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from tqdm import tqdm

import moco
from moco.errors import BrokenOffError, ConfigError
from moco.sweep.launch import launcher, run_all, start_here
from moco.training import loop
from tests.sweep.grids import TINY, here, images, settings

__all__ = ["here"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_a_process_that_dies_fails_alone():
    ended = {}
    tasks = {"killed": (os._exit, 9), "right": (int, "1")}
    assert run_all(start_here, tasks, jobs=2, ended=ended.__setitem__)
    assert ended["right"].result() == 1
    assert ended["killed"].exception() is not None


def test_processes_have_no_semaphores_with_names(monkeypatch):
    """They would stay in the system when all processes are killed at once."""
    monkeypatch.setattr(resource_tracker, "register", lambda *what: pytest.fail(f"{what} has to be tracked"))
    ended = {}
    assert run_all(start_here, {"of tqdm": (tracked, 0)}, ended=ended.__setitem__)
    assert ended["of tqdm"].result() == []


def tracked(_):
    """What a bar in a process of a grid has to be tracked for."""
    found = []
    resource_tracker.register = lambda *what: found.append(what)
    list(tqdm([1], disable=True))
    return found


def test_ctrl_c_asks_to_stop_and_starts_nothing_more(tmp_path):
    ended, stopped = [], []

    def stop():
        stopped.append(True)

    def watch(names):
        if not stopped:
            signal.raise_signal(signal.SIGINT)

    tasks = {"first": (time.sleep, 0.5), "second": (time.sleep, 0.5)}
    assert not run_all(start_here, tasks, ended=lambda name, future: ended.append(name), stop=stop, watch=watch)
    assert ended == ["first"], "what was at work may end"
    assert stopped


def test_a_second_ctrl_c_ends_at_once():
    begun = time.monotonic()

    def watch(names):
        signal.raise_signal(signal.SIGINT)

    assert not run_all(start_here, {"long": (time.sleep, 60)}, ended=print, stop=lambda: None, watch=watch)
    assert time.monotonic() - begun < 30


def processes(group: int) -> set[str]:
    """Command lines of the living processes of a group."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) == group and stat[0] != "Z":
                found.add((folder / "cmdline").read_text())
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_grid_leaves_no_process_and_goes_on_without_repeating(tmp_path, here, monkeypatch):
    options = {**TINY, "workers": 1, "checkpoint_minutes": 0.0}
    grid = {"out": str(tmp_path / "grid"), "recipe": "cifar", "linear": False, "quiet": True, "options": options}
    data = str(images(tmp_path))
    moco.ablate(None, data, vary={"steps": [6]}, **{**grid, "options": without(options, "steps")})
    both = {**grid, "options": without(options, "steps"), "vary": {"steps": [6, 120]}}
    program = f"import moco; moco.ablate(None, {data!r}, **{both!r})"
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    checkpoint = tmp_path / "grid" / "runs" / "steps-120-seed0" / "checkpoints" / "last.pt"
    wait_for(checkpoint.is_file)
    assert len(processes(process.pid)) > 2
    process.kill()
    process.wait()
    wait_for(lambda: not processes(process.pid), seconds=2)
    one_step, steps = loop.one_step, []
    monkeypatch.setattr(loop, "one_step", lambda *arguments: steps.append(1) or one_step(*arguments))
    assert moco.ablate(None, data, **both).finished
    assert here == ["steps-6-seed0", "steps-120-seed0"]
    assert 0 < len(steps) < 120


def without(options, name):
    return {key: value for key, value in options.items() if key not in (name, "epochs")}


def test_slurm_without_submitit_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match="slurm"):
        launcher(settings(out=tmp_path, launcher="slurm"))


@pytest.mark.slow
def test_submitit_carries_out_the_same_jobs(tmp_path):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    same = {"recipe": "cifar", "options": TINY, "values": [0.9], "quiet": True, "linear": False}
    cluster = {"launcher": "slurm", "slurm": {"cluster": "local", "timeout_min": 5}}  # of submitit, without a scheduler
    results = [
        moco.ablate("momentum", images(tmp_path), out=tmp_path / name, **same, **rest)
        for name, rest in (("here", {}), ("there", cluster))
    ]
    rows = [result.tables[0].rows[0] for result in results]
    assert all(result.finished for result in results)
    assert rows[0].values["loss"] == rows[1].values["loss"]
    with pytest.raises(ConfigError, match="nodez"):
        launcher(settings(out=tmp_path, launcher="slurm", slurm={"cluster": "local", "nodez": 1}))


def test_a_full_disk_ends_the_grid_in_one_line_and_the_next_call_goes_on(tmp_path, here, monkeypatch):
    """A run that could not be written has not failed."""
    options = {"recipe": "cifar", "options": {**TINY, "checkpoint_minutes": 0.0}, "linear": False, "quiet": True}
    grid = {**options, "values": [0.9, 0.99], "out": tmp_path / "grid"}
    replace, full = os.replace, []

    def limited(source, target):
        if full and "0.99" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", limited)
    full.append(True)
    with pytest.raises(BrokenOffError, match="No space left.*the same command goes on"):
        moco.ablate("momentum", images(tmp_path), **grid)
    assert not list((tmp_path / "grid").rglob("failed.json"))
    assert not (tmp_path / "grid" / "call").exists()
    full.clear()
    before = len(here)
    assert moco.ablate("momentum", images(tmp_path), **grid).finished
    assert len(here) == before + 1, "the finished run stays"
