import itertools
import math

import pytest

from moco.training.schedule import late_start_factor, learning_rate_factor


def factors(total: int, **options) -> list[float]:
    options = {"steps_per_epoch": 10, "schedule": "cosine", "unit": "step", **options}
    return [learning_rate_factor(step, total_steps=total, **options) for step in range(total)]


def test_v1_decays_tenfold_at_120_and_160_of_200_epochs():
    by_epoch = [
        learning_rate_factor(
            epoch * 7, total_steps=1400, steps_per_epoch=7, schedule="step", unit="epoch", milestones=(0.6, 0.8)
        )
        for epoch in range(200)
    ]
    assert by_epoch[119] == 1.0
    assert by_epoch[120] == pytest.approx(0.1)
    assert by_epoch[159] == pytest.approx(0.1)
    assert by_epoch[160] == pytest.approx(0.01)


def test_cosine_by_epoch_is_the_papers():
    by_step = factors(200, unit="epoch")
    for step, factor in enumerate(by_step):
        assert factor == pytest.approx(0.5 * (1 + math.cos(math.pi * (step // 10) / 20)))


def test_cosine_by_step_falls_at_every_step_towards_zero():
    by_step = factors(100)
    assert by_step[0] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(by_step))
    assert by_step[-1] < 0.001


def test_warmup_is_linear_and_ends_at_the_full_rate():
    by_step = factors(100, warmup_steps=10)
    assert by_step[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert by_step[10] == 1.0


def test_what_starts_late_rises_over_as_many_steps():
    assert [late_start_factor(step, 4) for step in range(9)] == [0, 0, 0, 0.25 * 0, 0.25, 0.5, 0.75, 1, 1]
    assert late_start_factor(0, 0) == 1
