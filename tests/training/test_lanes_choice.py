"""Whether a run has lanes: a measurement decides, is remembered, and leaves its processes to the run."""

from __future__ import annotations

import json

import pytest
from tests.training.test_lanes import CPU, encoder, options, run

from moco.errors import RunError
from moco.training import speed
from moco.training.encoder import build_checked_encoder
from moco.training.execution import choose
from moco.training.lanes import Lanes


@pytest.mark.parametrize(("rates", "lanes"), [([100.0, 130.0], "on"), ([100.0, 99.0], "off")])
def test_the_faster_way_is_taken_and_remembered(two_threads, tmp_path, monkeypatch, rates, lanes):
    monkeypatch.setenv("MOCO_EXECUTION_CACHE", str(tmp_path / "execution.json"))
    monkeypatch.setattr(speed, "with_and_without_lanes", lambda *_: rates)
    chosen = choose(options(), encoder(), total_steps=1000)
    assert chosen.config.lanes == lanes
    assert (chosen.lanes is not None) == (lanes == "on")
    assert list(json.loads((tmp_path / "execution.json").read_text()).values()) == [rates]
    monkeypatch.setattr(speed, "with_and_without_lanes", lambda *_: pytest.fail("known already"))
    assert choose(options(), encoder(), total_steps=1000).config.lanes == lanes
    assert choose(options(), encoder(), total_steps=20).config.lanes == "off", "not worth starting processes"


def test_lanes_that_fail_are_left_out_and_tried_again_another_time(two_threads, tmp_path, monkeypatch):
    def fail(*_: object) -> list[float]:
        raise RunError("a lane's process ended")

    monkeypatch.setenv("MOCO_EXECUTION_CACHE", str(tmp_path / "execution.json"))
    monkeypatch.setattr(speed, "with_and_without_lanes", fail)
    chosen = choose(options(), encoder(), total_steps=1000)
    assert chosen.config.lanes == "off"
    assert "failed" in chosen.reason
    assert not (tmp_path / "execution.json").exists()


def test_lanes_are_measured_in_earnest_and_the_run_goes_on_with_them(two_threads):
    started: list[Lanes] = []
    rates = speed.with_and_without_lanes(options(), build_checked_encoder(options()), CPU, started)
    assert all(rate > 0 for rate in rates)
    (lanes,) = started
    assert [process.poll() for process in lanes.processes] == [None, None]
    lanes.close()


@pytest.mark.parametrize("faster", [True, False])
def test_lanes_that_were_measured_are_taken_or_ended(two_threads, tmp_path, monkeypatch, faster):
    def measured(config, encoder, device, started):
        started.append(Lanes(config, encoder))
        kept.append(started[0])
        return [100.0, 200.0 if faster else 50.0]

    kept: list[Lanes] = []
    monkeypatch.setenv("MOCO_EXECUTION_CACHE", str(tmp_path / "execution.json"))
    monkeypatch.setattr(speed, "with_and_without_lanes", measured)
    chosen = choose(options(), build_checked_encoder(options()), total_steps=1000)
    assert chosen.lanes is (kept[0] if faster else None)
    assert kept[0].close.alive == faster
    kept[0].close()


def test_a_run_with_lanes_that_were_measured_is_the_same_to_the_bit(two_threads, tmp_path, monkeypatch):
    monkeypatch.setattr("moco.training.execution.WORTH_LANES", 1)
    honest = speed.with_and_without_lanes
    monkeypatch.setattr(speed, "with_and_without_lanes", lambda *given: [1.0, 2.0][: len(honest(*given))])
    monkeypatch.setenv("MOCO_EXECUTION_CACHE", str(tmp_path / "execution.json"))
    measured, remembered = run(tmp_path / "a", "auto"), run(tmp_path / "b", "auto")
    assert measured == remembered == run(tmp_path / "c", "on")


@pytest.mark.parametrize(
    ("size", "batch", "groups", "samples"),
    [
        (64, 64, None, 64),  # no more pixels than are needed
        (64, 256, None, 64),
        (224, 256, None, 16),  # no fewer samples than tell
        (224, 256, 16, 32),
        (64, 72, None, 72),  # its half falls into no two lanes of equal groups
    ],
)
def test_a_large_batch_is_measured_by_a_part_that_falls_into_lanes(size, batch, groups, samples):
    assert speed._lane_samples(options(image_size=size, batch_size=batch, split_groups=groups)) == samples
