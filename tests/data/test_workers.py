"""No worker outlives the process that trains, however that ends, and nothing of it is left behind."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews
from moco.data.skipped import SkippedFiles
from moco.data.workers import default_workers
from tests.data.examples import PLAIN, Reddish

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

SIDE = 256  # pixels of a view, so that batches are of 4 MiB and much shared memory is in use


def train(made, slow: bool, pause: float) -> None:
    """Start two workers, tell of each batch, pause after it; if slow, images after the first batch take long."""
    multiprocessing.current_process()._config.pop("tempdir", None)  # the folder of the process that it is forked from
    order = EpochOrder(np.arange(40), batch_size=4, seed=3)
    first = {sample.image for sample in order.batch(0)}
    source = Reddish(40, slow=set(range(40)) - first if slow else ())
    make = RecipeViews(PLAIN, SIDE, order, device_type="cpu")
    loader = ViewLoader(source, order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=2)
    for _ in loader.batches(0):
        made.set()
        time.sleep(pause)


def children(pid: int) -> set[int]:
    """Processes that this one has started, threads' included."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found |= set(map(int, path.read_text().split()))
    return found


def traces(*pids: int) -> set[str]:
    """What PyTorch and multiprocessing left in the file system of these processes; shared memory has their numbers."""
    shared = (Path("/dev/shm").glob(f"*_{pid}_*") for pid in pids)
    return {str(path) for folder in (Path(tempfile.gettempdir()).glob("pymp-*"), *shared) for path in folder}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_ignored(pid: int, number: int) -> None:
    """Wait for a process to have said that it ignores a signal."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        if int(fields["SigIgn"], 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Fork a process that trains; returns it with its workers once it has a batch."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # traces of other tests do not count
    started = []

    def starter(**options):
        fork = multiprocessing.get_context("fork")
        made = fork.Event()
        started.append(fork.Process(target=train, args=(made,), kwargs=options))
        started[-1].start()
        assert made.wait(20)
        workers = children(started[-1].pid)
        assert len(workers) == 2
        return started[-1], workers

    yield starter
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    "options", [{"slow": False, "pause": 0.01}, {"slow": False, "pause": 9}, {"slow": True, "pause": 0}]
)
def test_a_killed_process_leaves_no_workers_and_no_traces(start, options):
    """Workers may be sending, waiting, or in the middle of an image."""
    process, workers = start(**options)
    time.sleep(0.2)
    process.kill()
    process.join()
    deadline = time.monotonic() + 2
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))
    assert not traces(process.pid, *workers)


def test_nothing_is_left_of_processes_that_were_all_killed_at_once(start):
    """Nobody is left to remove anything."""
    process, workers = start(slow=False, pause=9)
    for pid in (*workers, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.join()
    assert not traces(process.pid, *workers)


def test_workers_send_images_whatever_the_length_of_the_temporary_folder(start, tmp_path, monkeypatch):
    """The path of a socket may have 107 bytes."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    start(slow=False, pause=9)


def test_ctrl_c_of_a_terminal_is_for_the_process_that_trains(start):
    """Workers go on; it ends them, without a word of theirs."""
    process, workers = start(slow=False, pause=30)
    for worker in workers:
        until_ignored(worker, signal.SIGINT)  # the batch that is made may be of the other one
        os.kill(worker, signal.SIGINT)
    time.sleep(0.2)
    assert all(map(alive, workers))
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode is not None
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
