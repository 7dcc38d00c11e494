"""A run that is killed leaves nothing behind: no process, no lock, no shared memory, no temporary file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from moco.errors import RunError
from moco.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
PATIENCE = 2.0  # seconds after the kill
OPTIONS = """--recipe v2
--backbone resnet_tiny --image-size 16 --batch-size 8 --dictionary-size 16 --steps 100000 --threads 1
    --knn-evaluations 0 --log-every 1 --accelerator cpu --workers 2 --quiet"""


def leftovers() -> set[str]:
    """What worker processes may leave in places that outlive them."""
    places = (Path(tempfile.gettempdir()), Path("/dev/shm"))
    return {str(path) for place in places for path in place.iterdir() if path.name.startswith(("pymp-", "torch_"))}


def members(group: int) -> list[int]:
    """Processes of a process group that are not mere zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("devices", [1, 2])
def test_nothing_is_left_of_a_killed_run(photos, tmp_path, devices):
    before, out = leftovers(), tmp_path / "run"
    command = [sys.executable, "-m", "moco", "pretrain", str(photos), "--out", str(out), *OPTIONS.split()]
    command += ["--devices", str(devices)]
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(members(process.pid)) >= devices * 3, "the run and its workers"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + PATIENCE
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert members(process.pid) == []
    finally:
        for left in members(process.pid):
            os.kill(left, signal.SIGKILL)
    folder = RunFolder(out)
    while True:  # the system takes some milliseconds to give a lock back
        try:
            folder.take(resume=True)
            break
        except RunError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    folder.close()
    left, deadline = leftovers() - before, time.monotonic() + 120  # some are of tests beside this one, which will end
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left &= leftovers()
    assert not left
