"""Crops for a GPU: made by processes that know none, copied beside its work, never overwritten meanwhile."""

import contextlib
import itertools
import os
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

import moco.data.loader
from moco import hardware
from moco.data import forked, upload
from moco.data.folder import FolderSource
from moco.data.forked import Slots, in_processes
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.upload import Uploads
from moco.recipes import configure
from moco.workload import view_recipe

forks_here = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")
BATCH, SIZE, STEPS = 12, 16, 9
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def files(tmp_path):
    """40 images of two sizes, one of which is damaged."""
    random = np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 256, (24, 20 + number % 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "07.png").write_text("no image")
    return tmp_path


def loader(files, device=CPU, **options):
    order = EpochOrder(np.arange(40), batch_size=BATCH, seed=3)
    options = {"image_size": SIZE, "device": device, "skipped": SkippedFiles(), "workers": 3, **options}
    return ViewLoader(FolderSource(files), order, view_recipe(configure("v2", {})), **options)


class Copies:
    """In the place of `Uploads` for a GPU that is not there: what the memory held when it was given free."""

    def __init__(self, device, shared=None):
        assert device.type == "cuda"
        assert shared is not None
        self.ended, self.freed = False, []
        made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True

    def start(self, batch):
        self._batch = batch
        return batch.clone()

    def finish(self):
        self.freed.append(self._batch.clone())


made: list[Copies] = []


@forks_here
@pytest.mark.parametrize("views", [1, 2])
def test_processes_make_the_crops_that_threads_make_and_touch_no_gpu(files, monkeypatch, views):
    """With a device that this machine may not have: whoever asked for it would fail."""
    threads = loader(files, views=views)
    with contextlib.closing(threads.crops(2)) as crops:
        expected = [(crop.clone(), threads.indices.copy()) for crop in itertools.islice(crops, STEPS)]
    monkeypatch.setattr(moco.data.loader, "Uploads", Copies)
    processes = loader(files, GPU, views=views, processes=True)
    with contextlib.closing(processes.crops(2)) as crops:
        found = [(crop, processes.indices.copy()) for crop in itertools.islice(crops, STEPS)]
    for (one, numbers), (other, others) in zip(expected, found, strict=True):
        assert one.shape == (views, BATCH, SIZE, SIZE, 3)
        assert torch.equal(one, other)
        np.testing.assert_array_equal(numbers, others)
    assert processes.skipped.items() == threads.skipped.items() != []
    uploads = made.pop()
    assert uploads.ended
    assert len(uploads.freed) == STEPS - 1
    for freed, (crop, _) in zip(uploads.freed, found, strict=False):
        assert torch.equal(freed, crop), "written again before it was given free"


@forks_here
@pytest.mark.parametrize("settled", [True, False])
def test_only_matrix_products_need_a_settled_process(files, monkeypatch, settled):
    monkeypatch.setattr(hardware, "_ours", settled)
    monkeypatch.setenv("MKL_DISABLE_FAST_MM", "1")
    assert loader(files, GPU, processes=True)._forks
    assert not loader(files, GPU)._forks
    assert loader(files, CPU, processes=True)._forks == settled


@forks_here
def test_beside_a_gpu_processes_stand_anywhere_after_others_and_are_never_replaced(files, monkeypatch):
    monkeypatch.setattr(forked, "JUDGED_STEPS", 1)
    monkeypatch.setattr(forked, "LATE", -1.0)  # whatever is judged is late
    children, fork = [], os.fork

    def noting():
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", noting)
    planner = loader(files).planner
    slots = Slots.of_crops(2, BATCH, SIZE)
    steps = in_processes(0, planner.crops, slots, SkippedFiles(), workers=2, beside_encoder=False)
    with contextlib.closing(steps):
        for _ in range(6):
            next(steps)
        assert len(children) == 2
        expected = min(19, os.getpriority(os.PRIO_PROCESS, 0) + forked.NICE)
        assert [os.getpriority(os.PRIO_PROCESS, child) for child in children] == [expected] * 2
        assert [os.sched_getaffinity(child) for child in children] == [os.sched_getaffinity(0)] * 2


def test_on_a_cpu_nothing_is_copied():
    batch = torch.zeros(3)
    with Uploads(CPU, batch) as uploads:
        assert uploads.start(batch) is batch
        uploads.finish()


class Driver:
    """What `Uploads` asks of CUDA, written down in order."""

    def __init__(self, status):
        self.asked, self._status = [], status
        self.Stream = lambda device: types.SimpleNamespace(name="ours")
        self.Event = lambda *, blocking: types.SimpleNamespace(
            record=lambda: self.asked.append("arrived"), synchronize=lambda: self.asked.append("wait")
        )

    @contextlib.contextmanager
    def stream(self, stream):
        self.asked.append("enter")
        yield
        self.asked.append("leave")

    def current_stream(self, device):
        return types.SimpleNamespace(wait_event=lambda event: self.asked.append("follow"))

    def cudart(self):
        return self

    def cudaHostRegister(self, address, size, flags):
        self.asked.append(("lock", address, size))
        return self._status

    def cudaHostUnregister(self, address):
        self.asked.append(("unlock", address))


class Batch:
    """A tensor as far as it is asked."""

    def __init__(self, asked):
        self._asked = asked

    def to(self, device, non_blocking):
        assert non_blocking
        self._asked.append("copy")
        return self

    def record_stream(self, stream):
        self._asked.append("keep")


@pytest.mark.parametrize("status", [0, 1])
def test_a_copy_runs_beside_what_is_computed_and_pages_are_locked_once_for_as_long_as_they_are_used(
    status, monkeypatch
):
    driver, shared = Driver(status), torch.zeros(10, dtype=torch.int32)
    monkeypatch.setattr(upload, "cuda", driver)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("the error that was kept")))
    with Uploads(GPU, shared) as uploads:
        for _ in range(2):
            uploads.start(Batch(driver.asked))
            uploads.finish()
    copy = ["enter", "copy", "arrived", "leave", "follow", "keep", "wait"]
    lock = [("lock", shared.data_ptr(), 40)]
    unlock = [("unlock", shared.data_ptr())] if status == 0 else []
    assert driver.asked == [*lock, *copy, *copy, "wait", *unlock]


def test_batches_of_ones_own_memory_are_not_locked(monkeypatch):
    driver = Driver(0)
    monkeypatch.setattr(upload, "cuda", driver)
    with Uploads(GPU) as uploads:
        uploads.start(Batch(driver.asked))
    assert "copy" in driver.asked
    assert not [asked for asked in driver.asked if isinstance(asked, tuple)]
