"""Threads that work ahead keep to a core each, where there is one for every core."""

import os
import threading

import numpy as np
import pytest
import torch

import moco.data.loader
from moco.data.ahead import ahead
from moco.data.arrays import ArraySource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.recipes import configure
from moco.workload import view_recipe

LINUX = hasattr(os, "sched_setaffinity")
CORES = sorted(os.sched_getaffinity(0)) if LINUX else [0]


def cores_of_threads(workers: int, *, spread: bool) -> set[tuple[int, ...]]:
    """The cores on which each thread may run."""
    meeting, seen = threading.Barrier(workers), []

    def work() -> None:
        meeting.wait(timeout=60)  # every thread is needed
        seen.append(tuple(sorted(os.sched_getaffinity(0))))

    def begin(step, pool):
        return (lambda: step), [pool.submit(work) for _ in range(workers if step == 0 else 0)]

    steps = ahead(0, begin, workers=workers, spread=spread)
    assert [next(steps) for _ in range(3)] == [0, 1, 2]
    steps.close()
    assert len(seen) == workers
    return set(seen)


@pytest.mark.skipif(not LINUX, reason="threads keep to a core on Linux only")
def test_threads_are_spread_over_all_cores_and_the_caller_is_not():
    assert cores_of_threads(len(CORES), spread=True) == {(core,) for core in CORES}
    assert cores_of_threads(len(CORES) + 1, spread=True) == {(core,) for core in CORES}
    assert cores_of_threads(len(CORES), spread=False) == {tuple(CORES)}
    assert sorted(os.sched_getaffinity(0)) == CORES


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_fewer_threads_than_cores_burden_none_for_good():
    assert cores_of_threads(len(CORES) - 1, spread=True) == {tuple(CORES)}


@pytest.mark.skipif(not LINUX, reason="threads keep to a core on Linux only")
def test_where_cores_may_not_be_chosen_the_threads_work_all_the_same(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    assert cores_of_threads(len(CORES), spread=True) == {tuple(CORES)}


@pytest.mark.skipif(not LINUX, reason="threads keep to a core on Linux only")
def test_the_loader_of_a_cpu_asks_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr(moco.data.loader, "ahead", lambda *_, **options: asked.append(options) or iter([()]))
    source = ArraySource(np.zeros((4, 12, 12, 3), dtype=np.uint8))
    order = EpochOrder(np.arange(4), batch_size=2, seed=0)
    options = {"image_size": 12, "device": torch.device("cpu"), "skipped": SkippedFiles(), "workers": 2}
    next(ViewLoader(source, order, view_recipe(configure("v2", {})), **options).batches(0))
    assert asked == [{"workers": 2, "spread": True}]
