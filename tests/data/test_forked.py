"""Processes that work ahead make what threads make, say what they meet, and are gone when nobody wants them."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import moco.data.loader
from moco.data.ahead import PREFETCH
from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.errors import DataError, RunError
from moco.recipes import configure
from moco.workload import view_recipe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")
BATCH, SIZE, MIB = 40, 16, 2**20
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@pytest.fixture(autouse=True)
def forking(monkeypatch):
    """Forked processes by number, in a test process that may fork; none is left when the test ends."""
    forks, fork = [], os.fork

    def noted():
        child = fork()
        if child:
            forks.append(child)
        return child

    monkeypatch.setattr(moco.data.loader, "can_fork", lambda **_: True)
    monkeypatch.setattr(os, "fork", noted)
    threads = set(threading.enumerate())
    yield forks
    assert not [child for child in forks if is_there(child)]
    assert set(threading.enumerate()) <= threads


def is_there(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def flat(tmp_path):
    """90 images of two sizes, each of one colour that tells its number."""
    (tmp_path / "flat").mkdir()
    for number in range(90):
        Image.new("RGB", (20 + number % 2, 24), (number, 0, 0)).save(tmp_path / "flat" / f"{number:02d}.png")
    return tmp_path / "flat"


def array(count=90):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    return ArraySource(pixels)


def loader(source, *, processes=True, workers=2, **options):
    recipe = view_recipe(configure("v2", {}))
    order = EpochOrder(np.arange(len(source)), batch_size=BATCH, seed=5)
    options = {"image_size": SIZE, "device": torch.device("cpu"), "skipped": SkippedFiles(), **options}
    return ViewLoader(source, order, recipe, processes=processes, workers=workers, **options)


def take(source_loader, count, first_step=0):
    """Copies, because the memory is used again, and the numbers of the images."""
    batches = source_loader.batches(first_step)
    try:
        taken = itertools.islice(batches, count)
        return [([view.clone() for view in views], source_loader.indices.tolist()) for views in taken]
    finally:
        batches.close()


def same(first, second):
    assert len(first) == len(second)
    return all(
        numbers == others and all(torch.equal(one, two) for one, two in zip(views, theirs, strict=True))
        for (views, numbers), (theirs, others) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize(("kind", "cache_bytes", "views"), [("array", 0, 2), ("files", 0, 2), ("files", MIB, 1)])
def test_processes_make_bit_for_bit_what_threads_make(flat, forking, kind, cache_bytes, views, workers):
    def one(processes):
        source = array() if kind == "array" else FolderSource(flat)
        return loader(source, processes=processes, workers=workers, cache_bytes=cache_bytes, views=views)

    expected = take(one(False), 3 * PREFETCH, first_step=1)
    assert not forking
    made = take(one(True), 3 * PREFETCH, first_step=1)
    assert len(forking) == workers
    assert same(made, expected)
    assert len(made[0][0]) == views
    layouts = {view.is_contiguous(memory_format=torch.channels_last) for view in made[0][0]}
    assert layouts == {True}


def test_a_loader_can_be_asked_again(flat):
    one = loader(FolderSource(flat), cache_bytes=MIB)
    first = take(one, 5)
    assert same(take(one, 2, first_step=3), first[3:])


def test_the_memory_of_a_step_is_its_callers_until_the_next(flat):
    one = loader(FolderSource(flat))
    expected = take(one, PREFETCH + 3)
    batches = one.batches(0)
    for views, _ in expected:
        held = next(batches)
        time.sleep(0.05)  # the processes have gone as far as they may
        assert all(torch.equal(view, other) for view, other in zip(held, views, strict=True))
    batches.close()


def test_what_a_process_decodes_is_kept_for_all(flat):
    """Two passes, in which each image is decoded about once, by whichever process meets it first."""
    decoded = flat.parent / "decoded"

    class Counted(FolderSource):
        def pixels(self, index, *, min_side=None):
            with decoded.open("a") as log:  # one write a line: whole, whoever else writes
                log.write(f"{index}\n")
            return super().pixels(index, min_side=min_side)

    one = loader(Counted(flat), cache_bytes=MIB)
    seen = {number for _, numbers in take(one, 9) for number in numbers}
    counts = Counter(decoded.read_text().split())
    assert seen <= {int(number) for number in counts}
    assert max(counts.values()) <= 2
    assert one.planner.cache.is_kept(np.array(sorted(seen))).all()


def test_damaged_images_are_replaced_and_listed_as_with_threads(flat):
    for number in (3, 4, 57):
        (flat / f"{number:02d}.png").write_text("no image")
    outcomes = []
    for processes in (False, True):
        skipped = SkippedFiles()
        skipped.add("earlier.png", "noted before")
        made = take(loader(FolderSource(flat), processes=processes, skipped=skipped), 9)
        outcomes.append((made, skipped.items()))
    (threads, listed), (forked, told) = outcomes
    assert same(forked, threads)
    assert told == listed
    assert [item[-6:] for item, _ in told] == ["03.png", "04.png", "57.png", "er.png"]


class Failing(FolderSource):
    """Images that one step needs cannot be read."""

    failure, bad = Exception(), frozenset[int]()

    def pixels(self, index, *, min_side=None):
        if index in self.bad:
            raise self.failure
        return super().pixels(index, min_side=min_side)


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (DataError("none can be read: check the folder"), DataError, "^none can be read: check the folder$"),
        (OSError("the disk is on fire"), RunError, "OSError.*the disk is on fire"),
    ],
)
def test_an_error_of_a_process_reaches_the_caller_after_the_steps_before_it(flat, failure, kind, message, capfd):
    source = Failing(flat)
    one = loader(source)
    source.failure, source.bad = failure, frozenset(range(90)) - set(one.order.batch(0).tolist())
    batches = one.batches(0)
    next(batches)
    with pytest.raises(kind, match=message) as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert ("Traceback" in capfd.readouterr().err) is (kind is RunError)


def test_a_process_that_is_ended_is_missed(flat, forking):
    batches = loader(FolderSource(flat)).batches(0)
    next(batches)
    os.kill(forking[1], signal.SIGKILL)
    with pytest.raises(RunError, match=rf"number {forking[1]}\) has ended.*resume the run"):
        list(itertools.islice(batches, PREFETCH + 2))


def test_ctrl_c_is_for_the_process_that_wants_the_views(flat, forking):
    expected = take(loader(FolderSource(flat)), 8)
    one = loader(FolderSource(flat))
    batches = one.batches(0)
    taken = [[view.clone() for view in next(batches)]]
    for child in forking[-2:]:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
    taken += [[view.clone() for view in next(batches)] for _ in range(7)]
    batches.close()
    assert all(torch.equal(a[0], b[0][0]) for a, b in zip(taken, expected, strict=True))


ALONE = """
import os, sys, time
from moco import hardware
hardware.settle()
import numpy as np
from moco.data import forked, loader
from tests.data.test_forked import array, loader as make
fork, children = os.fork, []
os.fork = lambda: children.append(fork()) or children[-1]
batches = make(array(), workers=2).batches(0)
next(batches)
print(*children, flush=True)
time.sleep(600)
"""


def test_processes_end_when_the_one_that_started_them_is_killed():
    with subprocess.Popen([sys.executable, "-c", ALONE], stdout=subprocess.PIPE, text=True) as process:
        children = [int(number) for number in process.stdout.readline().split()]
        there = [is_there(child) for child in children]
        process.kill()
    assert there == [True, True]
    latest = time.monotonic() + 60
    while any(is_there(child) for child in children) and time.monotonic() < latest:
        time.sleep(0.05)
    assert not any(is_there(child) for child in children)


@pytest.mark.parametrize("ending", ["close", "forget"])
def test_closing_or_forgetting_ends_the_processes(flat, forking, ending):
    batches = loader(FolderSource(flat), workers=3).batches(0)
    next(batches)
    assert len(forking) == 3
    assert all(is_there(child) for child in forking)
    if ending == "close":
        batches.close()
    del batches
    assert not any(is_there(child) for child in forking)


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_each_process_has_a_core(flat, forking):
    batches = loader(FolderSource(flat), workers=len(CORES)).batches(0)
    next(batches)
    assert [os.sched_getaffinity(child) for child in forking] == [{core} for core in CORES]
    batches.close()
    assert sorted(os.sched_getaffinity(0)) == CORES


class Theirs:
    """A source of the user's, who knows what it holds open."""

    name, labels, class_names = "theirs", None, ()

    def __len__(self):
        return 90

    def uniform_array(self):
        return None

    def item_name(self, index):
        return str(index)

    def image(self, index, *, min_side=None):
        return Image.new("RGB", (20, 20), (index, 0, 0))


def test_others_images_unsettled_processes_and_who_does_not_ask_get_threads(flat, forking, monkeypatch):
    take(loader(Theirs()), 2)
    take(loader(FolderSource(flat), processes=False), 2)
    monkeypatch.setattr(moco.data.loader, "can_fork", lambda **_: False)
    take(loader(FolderSource(flat)), 2)
    assert not forking
