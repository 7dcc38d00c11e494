"""Forked processes stand behind whatever else computes, until their views come late."""

import contextlib
import os
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import moco.data.loader
from moco.data import forked
from moco.data.folder import FolderSource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.recipes import configure
from moco.workload import view_recipe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")
WORKERS, STEPS = 2, 20


class Slow(FolderSource):
    """Takes its time over each image; number 7 cannot be read."""

    seconds = 0.0

    def pixels(self, index, *, min_side=None):
        time.sleep(self.seconds)
        return super().pixels(index, min_side=min_side)


@pytest.fixture
def files(tmp_path):
    for number in range(40):
        Image.new("RGB", (20 + number % 2, 24), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "07.png").write_text("no image")
    return tmp_path


@pytest.fixture
def policies(monkeypatch):
    """The scheduling policy of each forked process once it works, by number."""
    noted, fork = {}, os.fork

    def noting():
        child = fork()
        if child:
            noted[child] = None
        return child

    monkeypatch.setattr(os, "fork", noting)
    monkeypatch.setattr(moco.data.loader, "can_fork", lambda **_: True)
    monkeypatch.setattr(forked, "JUDGED_STEPS", 4)
    return noted


def run(files, policies, *, processes=True, seconds=0.0):
    """Views of each step, numbers of its images, damaged files."""
    source, skipped = Slow(files), SkippedFiles()
    source.seconds = seconds
    order = EpochOrder(np.arange(40), batch_size=8, seed=2)
    options = {"image_size": 12, "device": torch.device("cpu"), "skipped": skipped, "workers": WORKERS}
    loader = ViewLoader(source, order, view_recipe(configure("v2", {})), processes=processes, **options)
    made = []
    with contextlib.closing(loader.batches(3)) as batches:
        for _ in range(STEPS):
            views = next(batches)
            for child in policies:
                with contextlib.suppress(ProcessLookupError):  # it has been followed by another one
                    policies[child] = os.sched_getscheduler(child)
            made.append((torch.stack(views).clone(), loader.indices.tolist()))
    return made, skipped.items()


def same(first, second):
    return first[1] == second[1] and all(
        torch.equal(one, two) and numbers == others
        for (one, numbers), (two, others) in zip(first[0], second[0], strict=True)
    )


def test_late_views_bring_processes_with_their_full_share_once_and_change_nothing(files, policies):
    expected = run(files, {}, processes=False)
    assert same(run(files, policies, seconds=0.004), expected)
    assert list(policies.values()) == [os.SCHED_IDLE] * WORKERS + [os.SCHED_OTHER] * WORKERS
    assert len(expected[1]) == 1


def test_views_in_time_stay_behind(files, policies, monkeypatch):
    monkeypatch.setattr(forked, "LATE", 1.0)
    assert same(run(files, policies), run(files, {}, processes=False))
    assert list(policies.values()) == [os.SCHED_IDLE] * WORKERS


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([99.0] + [1.0] * 40, None),  # nobody can have worked ahead of the first
        ([1.0] * 9 + [30.0] + [1.0] * 3, None),  # judged together with those before it
        ([0.0] + [1.0] * 8 + [12.0] * 8, 12),
        ([0.0] + [12.0] * 12, 4),
    ],
)
def test_late_is_more_than_a_tenth_of_some_steps_and_told_once(monkeypatch, waits, expected):
    """Judged every four steps, each of which takes 100 seconds besides."""
    now = [0.0]
    monkeypatch.setattr(forked, "JUDGED_STEPS", 4)
    monkeypatch.setattr(forked.time, "perf_counter", lambda: now[0])
    waiting, told = forked._Waiting(), []
    for step, seconds in enumerate(waits):
        with waiting:
            now[0] += seconds
        now[0] += 100.0
        if waiting.too_long():
            told.append(step)
    assert told == ([] if expected is None else [expected])


def test_where_no_policy_may_be_chosen_the_processes_work_all_the_same(files, policies, monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    monkeypatch.setattr(forked, "LATE", 1.0)
    assert same(run(files, policies), run(files, {}, processes=False))
    assert list(policies.values()) == [os.SCHED_OTHER] * WORKERS
