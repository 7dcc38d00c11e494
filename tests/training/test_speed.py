"""Measurements by turns: short, fair, and none wasted on what is far behind."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from moco.recipes import configure
from moco.training import speed

CPU = torch.device("cpu")


def counted(seconds, calls, name):
    def trial():
        calls.append(name)
        return seconds

    return trial


def test_trials_take_turns_and_the_first_round_does_not_count():
    calls: list[str] = []
    found = speed._by_turns([counted(1.0, calls, "a"), counted(1.2, calls, "b")])
    assert found == [[1.0] * speed.ROUNDS, [1.2] * speed.ROUNDS]
    assert calls == ["a", "b"] * (speed.ROUNDS + 1)


def test_what_is_far_behind_is_asked_once():
    calls: list[str] = []
    found = speed._by_turns([counted(1.0, calls, "a"), counted(1.6, calls, "b"), counted(1.4, calls, "c")])
    assert [len(times) for times in found] == [speed.ROUNDS, 1, speed.ROUNDS]
    assert calls.count("b") == 2, "once to warm up, once for the figure"


def test_slow_trials_end_when_the_time_is_over(monkeypatch):
    clock = itertools.count(0.0, speed.SECONDS * 0.6)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    found = speed._by_turns([lambda: 1.0])
    assert len(found[0]) == 2, "the round that counts, and one more before the time was over"


@pytest.mark.parametrize(("size", "batch", "samples"), [(64, 64, 16), (32, 512, 32), (224, 256, 8), (224, 4, 4)])
def test_larger_images_are_measured_by_fewer(size, batch, samples, monkeypatch):
    seen = []

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images):
            seen.append(len(images))
            return images.mean(dim=(2, 3)) * self.scale

    monkeypatch.setattr(speed, "ROUNDS", 1)
    config = configure("v2", {"image_size": size, "batch_size": batch, "split_groups": None})
    ways = [{"precision": "fp32", "layout": "contiguous", "compile": "off"}]
    assert speed.of_candidates(config, Network(), CPU, ways)[0] > 0
    assert set(seen) == {samples}
