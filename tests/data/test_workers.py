"""No worker outlives the process that trains, however that ends, and nothing of it is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from moco.data.workers import default_workers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

# Batches of 4 MiB, so that much shared memory is in use; after the first, an image takes half a minute.
TRAINING = """
import sys, time, torch
from tests.data import examples
from tests.data.examples import *

examples.SIZE = 256
first = {{sample.image for sample in EpochOrder(np.arange(40), batch_size=4, seed=3).batch(0)}}
slow = set(range(40)) - first if {slow} else ()
batches = loader(Reddish(40, slow=slow), workers=2).batches(0)
for views, indices in batches:
    print("made", flush=True)
    time.sleep({pause})
"""


def children(pid: int) -> set[int]:
    """Processes that this one has started, threads' included."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found |= set(map(int, path.read_text().split()))
    return found


def traces() -> set[str]:
    """What PyTorch and multiprocessing might leave in the file system."""
    folders = (Path(tempfile.gettempdir()).glob("pymp-*"), Path("/dev/shm").glob("*"))
    found = {str(path) for folder in folders for path in folder}
    return {path for path in found if "sem.mp-" not in path}  # of other tests' spawned processes: forked ones name none


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a process that trains; returns it with its workers once it has a batch."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # traces of other tests do not count
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started = []

    def starter(**options):
        command = [sys.executable, "-c", TRAINING.format(**options)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "made\n"
        workers = children(started[-1].pid)
        assert len(workers) == 2
        return started[-1], workers

    yield starter
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "options", [{"slow": False, "pause": 0.01}, {"slow": False, "pause": 9}, {"slow": True, "pause": 0}]
)
def test_a_killed_process_leaves_no_workers_and_no_traces(start, options):
    """Workers may be sending, waiting, or in the middle of an image."""
    before = {trace for trace in traces() if trace.startswith("/dev/shm")}
    process, workers = start(**options)
    time.sleep(0.2)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 2
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))
    assert traces() <= before


def test_ctrl_c_of_a_terminal_is_for_the_process_that_trains(start):
    """Workers go on; it ends them, without a word of theirs."""
    process, workers = start(slow=False, pause=30)
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    time.sleep(0.2)
    assert all(map(alive, workers))
    process.send_signal(signal.SIGINT)
    process.wait(timeout=10)
    assert not any(map(alive, workers))
    assert {trace for trace in traces() if "pymp" in trace} == set()


def test_there_is_a_worker_for_each_core_that_this_process_may_use():
    kept = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(kept)})
        assert default_workers() == 1
    finally:
        os.sched_setaffinity(0, kept)
    assert default_workers() == min(16, len(kept))
