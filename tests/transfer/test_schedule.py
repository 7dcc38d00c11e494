"""Schedules: linear warm-up, a tenth at each decay point, and the paper's own by name."""

from __future__ import annotations

import pytest

from moco.errors import ConfigError
from moco.transfer.fine_tuning.schedule import NAMES, Schedule, named

SCHEDULE = Schedule(1000, 100, (700, 900), 0.02)


def test_the_warmup_is_linear_from_a_thousandth():
    assert SCHEDULE.learning_rate_at(0) == pytest.approx(0.02 / 1000)
    assert SCHEDULE.learning_rate_at(50) == pytest.approx(0.02 * (0.5 + 0.5 / 1000))
    assert SCHEDULE.learning_rate_at(100) == SCHEDULE.learning_rate_at(699) == 0.02


def test_each_milestone_takes_the_rate_to_a_tenth():
    assert SCHEDULE.learning_rate_at(700) == SCHEDULE.learning_rate_at(899) == pytest.approx(0.002)
    assert SCHEDULE.learning_rate_at(900) == SCHEDULE.learning_rate_at(999) == pytest.approx(0.0002)


def test_a_scaled_schedule_keeps_its_shares():
    short = named("paper-voc-24k").scaled(240)
    assert (short.iterations, short.warmup, short.milestones) == (240, 1, (180, 220))
    assert short.scaled(24_000).milestones == named("paper-voc-24k").milestones


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("iterations", [1, 2, 3, 7, 1001])
def test_every_schedule_can_be_scaled_to_any_length(name, iterations):
    short = named(name).scaled(iterations)
    rates = [short.learning_rate_at(iteration) for iteration in range(iterations)]
    assert all(0 < rate <= short.learning_rate for rate in rates)


def test_the_rate_follows_the_batch():
    assert named("coco-1x").for_batch(4).learning_rate == pytest.approx(0.005)
    assert named("coco-1x").for_batch(4).iterations == 90_000


@pytest.mark.parametrize(
    ("name", "iterations", "milestones", "rate", "batch"),
    [
        ("paper-voc-24k", 24_000, (18_000, 22_000), 0.02, 16),
        ("coco-1x", 90_000, (60_000, 80_000), 0.02, 16),
        ("coco-2x", 180_000, (120_000, 160_000), 0.02, 16),
        ("voc-semantic-30k", 30_000, (21_000, 27_000), 0.003, 16),
        ("cityscapes-semantic-90k", 90_000, (63_000, 81_000), 0.01, 16),
    ],
)
def test_the_papers_schedules(name, iterations, milestones, rate, batch):
    known = named(name)
    assert (known.iterations, known.milestones, known.learning_rate, known.batch_size) == (
        iterations,
        milestones,
        rate,
        batch,
    )
    assert known.source


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 0},
        {"warmup": -1},
        {"warmup": 1001},
        {"milestones": (900, 700)},
        {"milestones": (1001,)},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"batch_size": 0},
        {"weight_decay": -1.0},
    ],
)
def test_figures_out_of_range_are_refused(change):
    with pytest.raises(ConfigError):
        Schedule(**{"iterations": 1000, "warmup": 0, "milestones": (), "learning_rate": 0.1, **change})


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="nearest: coco-1x"):
        named("coco-1y")
    with pytest.raises(ConfigError, match="nearest: coco-2x|expected one of"):
        named("coco2x")
