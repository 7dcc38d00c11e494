"""Lanes compute what the whole batch does, are refused where they would not, and end with the run."""

from __future__ import annotations

import copy
import json
import os
import signal

import pytest
import torch
from torch import Tensor, nn

import moco
from moco.config import Config
from moco.contrast.batchnorm import split_batchnorm
from moco.errors import ConfigError, RunError
from moco.recipes import configure
from moco.training.encoder import build_checked_encoder
from moco.training.execution import choose, lanes_obstacle
from moco.training.lanes import KEY, QUERY, LanedEncoder, Lanes, independent_halves, lane_groups, split_for_lanes

CPU = torch.device("cpu")


def options(**stated) -> Config:
    size = {"backbone": "resnet_tiny", "image_size": 16, "batch_size": 16, "dictionary_size": 32}
    fixed = {"precision": "fp32", "layout": "channels_last", "compile": "off", "accelerator": "cpu"}
    return configure("v2", {**size, **fixed, **stated})


class InLanes:
    """A configuration's encoder, its twin that takes whole batches, and its lanes."""

    def __init__(self, config: Config) -> None:
        self.config, self.lanes = config, Lanes(config, build_checked_encoder(config))
        self.renew()

    def renew(self) -> None:
        self.encoder = split_for_lanes(build_checked_encoder(self.config), self.config).train()
        self.whole = copy.deepcopy(self.encoder)
        self.laned = LanedEncoder(self.encoder, self.encode, self.lanes, QUERY)

    def encode(self, module: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.precision == "bf16"):
            return module(images).float()

    def images(self, count: int = 16) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(count, 3, 16, 16, generator=generator)
        return images.contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def pair(request):
    made = InLanes(options(precision=request.param))
    yield made
    made.lanes.close()


@pytest.fixture
def fresh(pair) -> InLanes:
    pair.renew()
    return pair


def test_lanes_give_the_whole_batchs_embeddings_gradients_and_statistics(fresh):
    close = {"rtol": 1e-4, "atol": 1e-5} if fresh.config.precision == "fp32" else {"rtol": 5e-2, "atol": 2e-2}
    images, target = fresh.images(), torch.randn(16, fresh.config.embedding_dim) / 16
    start = copy.deepcopy(fresh.encoder.state_dict())
    for _ in range(2):  # the second time statistics and gradients go on from the first
        expected, found = fresh.encode(fresh.whole, images), fresh.laned(images)
        torch.testing.assert_close(found, expected, **close)
        (expected * target).sum().backward()
        (found * target).sum().backward()
    for (name, one), other in zip(fresh.whole.named_parameters(), fresh.encoder.parameters(), strict=True):
        assert other.grad is not None
        assert other.grad.dtype == torch.float32
        gap = (one.grad - other.grad).norm() / one.grad.norm()
        assert gap < (1e-4 if fresh.config.precision == "fp32" else 5e-2), name
    for (name, one), other in zip(fresh.whole.named_buffers(), fresh.encoder.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=name, **close)
    moved = [n for n, b in fresh.encoder.named_buffers() if not torch.equal(b, start[n])]
    assert moved == [name for name, _ in fresh.encoder.named_buffers()]


def test_lanes_see_new_weights_at_once(fresh):
    with torch.no_grad():
        before = fresh.laned(fresh.images())
        for parameter in fresh.encoder.parameters():
            parameter.mul_(0.5)
        assert not torch.allclose(fresh.laned(fresh.images()), before, atol=1e-3)


def test_equal_calls_in_lanes_are_equal_to_the_bit(fresh):
    gradients = []
    for _ in range(3):
        fresh.renew()
        fresh.laned(fresh.images()).square().sum().backward()
        gradients.append([parameter.grad for parameter in fresh.encoder.parameters()])
    for again in gradients[1:]:
        assert all(torch.equal(one, other) for one, other in zip(gradients[0], again, strict=True))


def test_two_passes_may_come_before_their_gradients(fresh):
    """As in a symmetric step, or where keys go through the query encoder too."""
    first, second = fresh.images(), fresh.images().flip(0)
    (fresh.laned(first) * fresh.laned(second)).sum().backward()
    (fresh.encode(fresh.whole, first) * fresh.encode(fresh.whole, second)).sum().backward()
    for one, other in zip(fresh.whole.parameters(), fresh.encoder.parameters(), strict=True):
        assert (one.grad - other.grad).norm() < 5e-2 * one.grad.norm()


def test_key_and_query_encoder_do_not_meet(fresh):
    key_encoder = copy.deepcopy(fresh.encoder).requires_grad_(False)
    with torch.no_grad():
        for parameter in key_encoder.parameters():
            parameter.mul_(0.5)
        key = LanedEncoder(key_encoder, fresh.encode, fresh.lanes, KEY)
        query_before = fresh.laned(fresh.images())
        keys, query_after = key(fresh.images()), fresh.laned(fresh.images())
    torch.testing.assert_close(query_after, query_before)
    assert not torch.allclose(keys, query_after, atol=1e-3)
    assert not keys.requires_grad


def test_another_batch_and_eval_mode_are_encoded_whole(fresh):
    calls = []
    laned = LanedEncoder(fresh.encoder, lambda module, x: calls.append(len(x)) or module(x), fresh.lanes, QUERY)
    laned(fresh.images(8))
    fresh.encoder.eval()
    laned(fresh.images())
    fresh.encoder.train()
    laned(fresh.images())
    assert calls == [8, 16]


def test_a_parameter_that_takes_no_part_keeps_no_gradient(tmp_path, monkeypatch):
    (tmp_path / "idle_network.py").write_text(
        "from torch import nn\n"
        "class Idle(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.used, self.idle = nn.Conv2d(3, 4, 16), nn.Linear(3, 3)\n"
        "    def forward(self, x):\n"
        "        return self.used(x).flatten(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = InLanes(options(backbone="idle_network:Idle", batchnorm="none"))
    made.laned(made.images()).sum().backward()
    assert {name for name, p in made.encoder.named_parameters() if p.grad is None} == {
        "backbone.idle.weight",
        "backbone.idle.bias",
    }
    made.lanes.close()


def test_a_lane_that_is_killed_is_an_error_with_a_remedy():
    made = InLanes(options())
    os.kill(made.lanes.processes[1].pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"exit code -9.*--lanes off"):
        made.laned(made.images())
    made.lanes.close()


def test_lanes_end_with_their_object():
    lanes = Lanes(options(), build_checked_encoder(options()))
    processes = lanes.processes
    assert [process.poll() for process in processes] == [None, None]
    del lanes
    assert [process.poll() for process in processes] == [0, 0]


@pytest.mark.parametrize(
    ("samples", "groups", "expected"), [(16, 4, 2), (16, None, 2), (64, None, 4), (18, 4, None), (16, 1, None)]
)
def test_a_lane_holds_whole_equal_groups(samples, groups, expected):
    assert lane_groups(samples, groups) == expected


class Meeting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5] - images.flatten(1)[:, :5].mean(dim=0)


class Drawing(nn.Module):
    """Its draws change no result, but two processes would draw other numbers than one."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5] + 0 * torch.rand(1)


def network() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 5)
    )
    return split_batchnorm(layers, 2)


@pytest.mark.parametrize(
    ("module", "independent"),
    [
        (network(), True),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), False),
        (Drawing(), False),
        (Meeting(), False),
    ],
    ids=["split BatchNorm", "dropout", "draws", "samples meet"],
)
def test_networks_whose_halves_depend_on_each_other_are_found_out(module, independent):
    assert independent_halves(module.train(), torch.randn(8, 3, 8, 8), split_groups=2) is independent


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({}, None),
        ({"batch_size": 9}, "no equal halves"),
        ({"batch_size": 12, "split_groups": 3}, "two lanes of equal"),
        ({"batchnorm": "none"}, "from the whole batch"),
        ({"compile": "on"}, "whole batches"),
        ({"devices": 2}, "one process"),
    ],
)
def test_where_lanes_cannot_be_the_reason_is_given(two_threads, stated, reason):
    obstacle = lanes_obstacle(options(**stated), encoder(), CPU)
    assert obstacle is None if reason is None else reason in obstacle
    if reason is not None and "devices" not in stated:
        with pytest.raises(ConfigError, match="choose lanes 'off' or 'auto'"):
            choose(options(lanes="on", **stated), encoder(), total_steps=10)


def run(folder, lanes: str, **more):
    stated = {"precision": "fp32", "layout": "channels_last", "lanes": lanes, "threads": 2, "log_every": 1}
    size = {"backbone": "resnet_tiny", "batch_size": 16, "knn_evaluations": 0}
    size |= {"dictionary_size": 64} if more.get("mechanism") != "end-to-end" else {}
    moco.pretrain(out=folder, steps=4, quiet=True, **stated, **size, **more)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def test_a_run_in_lanes_learns_as_a_whole_one_and_repeats_to_the_bit(two_threads, tmp_path):
    whole, laned, again = run(tmp_path / "a", "off"), run(tmp_path / "b", "on"), run(tmp_path / "c", "on")
    assert laned == again
    assert laned == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("more", [{"mechanism": "end-to-end"}, {"mechanism": "memory-bank"}, {"symmetric": True}])
def test_every_step_that_may_run_in_lanes_learns_the_same(two_threads, tmp_path, more):
    assert run(tmp_path / "b", "on", **more) == pytest.approx(run(tmp_path / "a", "off", **more), rel=1e-3)
