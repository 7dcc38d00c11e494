"""Precision and layout are measured once for a machine and a network, then remembered; the user's word comes first."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from moco.recipes import configure
from moco.training import execution, speed
from moco.training.execution import choose


@pytest.fixture
def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache" / "execution.json"
    monkeypatch.setenv("MOCO_EXECUTION_CACHE", str(path))
    return path


@pytest.fixture
def small():
    return configure("v2", {"image_size": 8, "batch_size": 8, "embedding_dim": 5, "accelerator": "cpu"})


def test_the_fastest_is_taken_and_remembered(encoder, small, cache, monkeypatch):
    asked = []

    def rates(config, module, device, candidates):
        asked.append(candidates)
        return [float(place) for place in range(len(candidates))]  # the last is the fastest

    monkeypatch.setattr(execution, "native_bf16", lambda device: True)
    monkeypatch.setattr(speed, "of_candidates", rates)
    first, second = (choose(small, encoder, total_steps=10) for _ in range(2))
    assert len(asked) == 1
    assert (first.config.precision, first.config.layout, first.config.compile) == ("fp32", "contiguous", "off")
    assert second.config == first.config
    assert first.reason.startswith("measured, images/s: bf16 channels-last 0")
    assert second.reason.startswith("measured before")
    assert len(json.loads(cache.read_text())) == 1
    choose(small, nn.Linear(3, 2), total_steps=10)
    assert len(asked) == 2, "another network is measured anew"


@pytest.mark.parametrize(("gain", "layout"), [(1.03, "channels_last"), (1.2, "contiguous")])
def test_a_small_difference_does_not_outweigh_the_likeliest(encoder, small, monkeypatch, gain, layout):
    monkeypatch.setattr(execution, "native_bf16", lambda device: False)
    monkeypatch.setattr(speed, "of_candidates", lambda *_: [100.0, 100.0 * gain])
    assert choose(small, encoder, total_steps=10).config.layout == layout


def test_the_users_word_is_kept_without_a_measurement(encoder, small, monkeypatch):
    monkeypatch.setattr(speed, "of_candidates", lambda *_: pytest.fail("nothing to choose"))
    stated = {"precision": "bf16", "layout": "contiguous", "compile": "off", "lanes": "off"}
    given = configure("v2", {"image_size": 8, "batch_size": 8, **stated})
    chosen = choose(given, encoder, total_steps=10)
    assert chosen.config == given
    assert chosen.reason == "as configured"


def test_a_stated_part_limits_the_choice(encoder, small, monkeypatch):
    monkeypatch.setattr(speed, "of_candidates", lambda config, module, device, candidates: [1.0] * len(candidates))
    monkeypatch.setattr(execution, "native_bf16", lambda device: True)
    given = configure("v2", {"image_size": 8, "batch_size": 8, "layout": "contiguous", "accelerator": "cpu"})
    assert choose(given, encoder, total_steps=10).config.layout == "contiguous"


def test_without_native_bf16_only_fp32_is_tried(encoder, small, monkeypatch):
    monkeypatch.setattr(execution, "native_bf16", lambda device: False)
    assert choose(small, encoder, total_steps=10).config.precision == "fp32"


def test_several_processes_do_not_measure(encoder, small, monkeypatch):
    monkeypatch.setattr(speed, "of_candidates", lambda *_: pytest.fail("ranks would disagree"))
    given = configure("v2", {"image_size": 8, "batch_size": 8, "devices": 2, "accelerator": "cpu"})
    assert choose(given, encoder, total_steps=10).config.layout == "channels_last"


def test_a_real_measurement_leaves_no_trace(encoder, small):
    before, state = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    chosen = choose(small, encoder, total_steps=10).config
    assert "auto" not in (chosen.precision, chosen.layout, chosen.compile)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_damaged_or_unwritable_cache_only_costs_time(encoder, small, cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_text("{broken")
    choose(small, encoder, total_steps=10)
    blocked = cache.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("MOCO_EXECUTION_CACHE", str(blocked / "below" / "execution.json"))
    choose(small, encoder, total_steps=10)
