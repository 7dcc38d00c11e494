"""Two lanes compute what the whole batch does, and are refused where they would not."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

import moco
from moco.contrast.batchnorm import split_batchnorm
from moco.errors import ConfigError
from moco.recipes import configure
from moco.training import execution
from moco.training.execution import choose, lanes_obstacle
from moco.training.lanes import LanedEncoder, Lanes, independent_halves, lane_groups

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lanes() -> Lanes:
    return Lanes(2)


def network(*, groups: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 5)
    )
    return split_batchnorm(layers, groups).train()


def plain(module: nn.Module, images: Tensor) -> Tensor:
    return module(images)


def test_lanes_give_the_whole_batchs_embeddings_gradients_and_statistics(lanes):
    whole = network()
    halved = copy.deepcopy(whole)
    images, target = torch.randn(16, 3, 8, 8), torch.randn(16, 5)
    laned = LanedEncoder(halved, plain, lanes, split_groups=4)
    for _ in range(2):  # the second time the statistics go on from the first
        expected, found = whole(images), laned(images)
        torch.testing.assert_close(found, expected)
        (expected * target).sum().backward()
        (found * target).sum().backward()
    for (name, one), other in zip(whole.named_parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5, msg=name)
    for (name, one), other in zip(whole.named_buffers(), halved.named_buffers(), strict=True):
        torch.testing.assert_close(other[1], one, msg=name)
    assert float(whole[1].running_mean.abs().max()) > 0


def test_equal_calls_in_lanes_are_equal_to_the_bit(lanes):
    images = torch.randn(16, 3, 8, 8)
    gradients = []
    for _ in range(4):
        module = network()
        LanedEncoder(module, plain, lanes, split_groups=4)(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for again in gradients[1:]:
        assert all(torch.equal(one, other) for one, other in zip(gradients[0], again, strict=True))


def test_lanes_run_at_the_same_time_on_half_of_the_threads(lanes):
    import threading

    meeting = threading.Barrier(2, timeout=20)  # a lane after the other would never meet

    def arrive(_: int) -> int:
        meeting.wait()
        return torch.get_num_threads()

    assert lanes.run(arrive, [0, 1]) == [1, 1]


def test_making_lanes_leaves_the_process_its_threads():
    before = torch.get_num_threads()
    Lanes(before + 3)
    assert torch.get_num_threads() == before


def test_without_gradients_no_graph_is_kept(lanes):
    with torch.no_grad():
        assert not LanedEncoder(network(), plain, lanes, split_groups=4)(torch.randn(16, 3, 8, 8)).requires_grad


@pytest.mark.parametrize(
    ("samples", "groups", "expected"), [(16, 4, 2), (16, None, 2), (64, None, 4), (18, 4, None), (16, 1, None)]
)
def test_a_lane_holds_whole_equal_groups(samples, groups, expected):
    assert lane_groups(samples, groups) == expected


def test_a_batch_that_does_not_fall_into_lanes_is_encoded_whole(lanes):
    seen = []

    def encode(module: nn.Module, images: Tensor) -> Tensor:
        seen.append(len(images))
        return module(images)

    laned = LanedEncoder(network(), encode, lanes, split_groups=4)
    laned(torch.randn(18, 3, 8, 8))
    laned(torch.randn(16, 3, 8, 8))
    assert seen == [18, 8, 8]


class Meeting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5] - images.flatten(1)[:, :5].mean(dim=0)


class Drawing(nn.Module):
    """Its draws change no result, but in two threads their order would be chance."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5] + 0 * torch.rand(1)


@pytest.mark.parametrize(
    ("module", "independent"),
    [
        (network(groups=2), True),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), False),
        (Drawing(), False),
        (Meeting(), False),
    ],
    ids=["split BatchNorm", "dropout", "draws", "samples meet"],
)
def test_networks_whose_halves_depend_on_each_other_are_found_out(module, independent):
    assert independent_halves(module.train(), torch.randn(8, 3, 8, 8), split_groups=2) is independent


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))


def options(**stated):
    return configure("v2", {"image_size": 8, "batch_size": 8, "accelerator": "cpu", **stated})


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
        fixed = {"precision": "fp32", "layout": "contiguous", "compile": "off", "lanes": "on", **stated}
        with pytest.raises(ConfigError, match="choose lanes 'off' or 'auto'"):
            choose(options(**fixed), encoder(), total_steps=10)


@pytest.mark.parametrize(("rates", "lanes"), [([100.0, 130.0], "on"), ([100.0, 102.0], "off")])
def test_the_faster_way_is_taken_and_remembered(two_threads, tmp_path, monkeypatch, rates, lanes):
    monkeypatch.setenv("MOCO_EXECUTION_CACHE", str(tmp_path / "execution.json"))
    monkeypatch.setattr(execution, "_measure_lanes", lambda *_: rates)
    fixed = options(precision="fp32", layout="contiguous", compile="off")
    assert choose(fixed, encoder(), total_steps=10).config.lanes == lanes
    assert list(json.loads((tmp_path / "execution.json").read_text()).values()) == [rates]
    monkeypatch.setattr(execution, "_measure_lanes", lambda *_: pytest.fail("known already"))
    assert choose(fixed, encoder(), total_steps=10).config.lanes == lanes


def test_a_run_in_lanes_learns_as_a_whole_one_and_repeats_to_the_bit(two_threads, tmp_path):
    def run(name: str, lanes: str, **more):
        stated = {"precision": "fp32", "layout": "channels_last", "lanes": lanes, "threads": 2, "log_every": 1}
        size = {"backbone": "resnet_tiny", "batch_size": 16, "knn_evaluations": 0, "dictionary_size": 64}
        return moco.pretrain(out=tmp_path / name, steps=4, quiet=True, **stated, **size, **more)

    def losses(name: str) -> list[float]:
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]

    run("whole", "off")
    run("laned", "on")
    run("again", "on")
    assert losses("laned") == losses("again")
    assert losses("laned") == pytest.approx(losses("whole"), rel=1e-3)
