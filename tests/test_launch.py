"""Runs that torchrun, SLURM or several nodes start, and one that loses a process."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import moco
from moco.errors import ConfigError
from moco.training import stop
from moco.training.launcher import Launcher, check_nodes, is_first_process, launcher, options_of_launcher
from moco.training.processes import launched

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "4"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}  # without srun
RUN = ("--recipe=v2", "--backbone=resnet_tiny", "--image-size=16", "--batch-size=8", "--dictionary-size=16")
RUN += ("--threads=1", "--workers=0", "--knn-evaluations=0", "--log-every=2", "--logger=csv")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in TORCHRUN or name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "found", "first"),
    [
        ({}, None, True),
        (TORCHRUN, Launcher("torchrun", 2, 2, 3), False),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, Launcher("torchrun", 2, 2, 0), True),
        (TORCHRUN | {"RANK": "2", "LOCAL_RANK": "0"}, Launcher("torchrun", 2, 2, 2), False),
        (SRUN, Launcher("srun", 2, 2, 1), False),
        (BATCH_SCRIPT, None, True),
        (BATCH_SCRIPT | {"SLURM_STEP_NUM_TASKS": "1"}, None, True),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, None, False),
    ],
)
def test_who_has_started_the_processes_is_read_from_the_environment(monkeypatch, environment, found, first):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher() == found
    assert is_first_process() is first
    assert options_of_launcher({}) == ({} if found is None else {"devices": 2, "num_nodes": 2})


def test_other_devices_than_have_been_started_are_refused(monkeypatch, photos, tmp_path, tiny):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="devices=3: torchrun has started 2 on each node"):
        moco.pretrain(photos, out=tmp_path / "run", **tiny, devices=3)
    with pytest.raises(ConfigError, match="no recipe under torchrun"):
        moco.pretrain(photos, out=tmp_path / "run")
    assert options_of_launcher({"devices": 2}) == {"devices": 2, "num_nodes": 2}
    assert not (tmp_path / "run").exists()


def test_uneven_tasks_are_refused(monkeypatch):
    for name, value in (SRUN | {"SLURM_STEP_NUM_TASKS": "3"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="3 tasks on 2 nodes: give --ntasks-per-node"):
        launcher()


def test_nodes_have_to_know_where_the_first_one_is(monkeypatch):
    with pytest.raises(ConfigError, match="without MASTER_ADDR, MASTER_PORT, NODE_RANK"):
        check_nodes(2)
    check_nodes(1)
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    check_nodes(2)


def start(folder: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
    made = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=made, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_torchrun_and_srun_start_the_run_that_moco_would(photos, tmp_path):
    pretrain = ("-m", "moco", "pretrain", str(photos), *RUN, "--steps=4")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29713")
    running = [start(tmp_path, *torchrun, *pretrain, "--out=torchrun")]
    shared = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2", "SLURM_NODEID": "0"}
    shared |= {"SLURM_JOB_ID": "714", "SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "train"}
    for rank in ("0", "1"):
        own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        running.append(start(tmp_path, *pretrain, "--out=srun", **shared, **own))
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], "\n".join(said)
    one, other = (moco.Run(tmp_path / name) for name in ("torchrun", "srun"))
    assert one.config.devices == other.config.devices == 2
    assert one.summary["finished"]
    alone = moco.pretrain(photos, config=dataclasses.replace(one.config, devices=1), out=tmp_path / "alone", quiet=True)
    assert one.summary["flops"] == alone.summary["flops"], "the ranks' together"
    states = [torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)["model"] for run in (one, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not said[2], "the second rank says nothing"


def test_a_missing_node_is_named(photos, tmp_path):
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29721", "NODE_RANK": "0", "MOCO_NODES_JOIN": "1"}
    process = start(tmp_path, "-m", "moco", "pretrain", str(photos), *RUN, "--steps=4", "--num-nodes=2", **known)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "moco: error: node 1 of 2 has not come within 1 s" in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["MOCO_NODES_JOIN", "MASTER_PORT", "NODE_RANK"])
def test_an_environment_that_cannot_be_meant_is_refused(monkeypatch, name):
    for known, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29721", "NODE_RANK": "0"}.items():
        monkeypatch.setenv(known, value)
    check_nodes(2)
    for value in ("soon", "-1", "nan"):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=f"{name}='{value}' in the environment: expected"):
            check_nodes(2)


def test_the_command_says_an_odd_environment_in_one_line(photos, tmp_path):
    odd = {"RANK": "x", "LOCAL_RANK": "0", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    process = start(tmp_path, "-m", "moco", "pretrain", str(photos), *RUN, "--steps=4", **odd)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert said.strip() == "moco: error: RANK='x' in the environment: expected a whole number"


def test_the_command_ends_after_the_processes_of_its_other_devices(monkeypatch):
    """Those of a Python program go on with the program."""
    for command in (True, False):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
        strategy = types.SimpleNamespace(launcher=types.SimpleNamespace(procs=[process]))
        monkeypatch.setattr(stop, "may_end_process", command)
        with launched(types.SimpleNamespace(strategy=strategy, launch=lambda: None, world_size=2)):
            pass
        assert (process.poll() == 0) is command
        process.kill()
        process.wait()


def test_a_rank_that_dies_is_reported_and_the_run_goes_on_on_one_device(photos, tmp_path):
    pretrain = ("-m", "moco", "pretrain", str(photos), *RUN, "--out=run", "--steps=100000", "--devices=2")
    process = start(tmp_path, *pretrain, "--checkpoint-minutes=0")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    limit = time.monotonic() + 60
    while not checkpoint.is_file() and time.monotonic() < limit:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = [pid for pid in children if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(second[0]), signal.SIGKILL)
    said = process.communicate(timeout=30)[0]
    last = said.strip().splitlines()[-1]
    assert re.search(r"has ended \(rank 1 by signal SIGKILL\): continue with --resume", last), said
    assert "Traceback" not in said
    assert process.returncode == 1
    step = torch.load(checkpoint, weights_only=True)["progression"]["step"]
    assert step % 2 == 0, "ranks save after a logged line, so that sums of their own are empty"
    run = moco.pretrain(out=tmp_path / "run", resume=True, quiet=True, devices=1, steps=step + 4)
    assert run.finished
    steps = [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(2, step + 5, 2))
