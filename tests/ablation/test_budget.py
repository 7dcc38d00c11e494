"""The budget: what is measured, what is computed from it, how long several runs side by side take."""

from __future__ import annotations

import json

import pytest

from moco.ablation import budget, measure
from moco.ablation.progress import Progress
from moco.recipes import configure
from tests.ablation.grids import plan


def rates(configs, seconds, evaluation=None):
    report = {"seconds_per_step": seconds, "start_seconds": 3.0, "evaluation": evaluation}
    return budget.Rates.read(configs, [report])


def test_each_kind_is_measured_at_the_ends_of_its_dictionary_sizes():
    measured = budget.to_measure(plan("paper", values={"mechanism": [8, 16, 32]}, seeds=(0, 1)).runs)
    assert sorted((c.mechanism, c.batch_size, c.dictionary_size or 0) for c in measured) == [
        ("end-to-end", 8, 0),
        ("end-to-end", 16, 0),
        ("end-to-end", 32, 0),
        ("memory-bank", 8, 8),
        ("memory-bank", 8, 32),
        ("moco", 8, 8),
        ("moco", 8, 32),
    ]


def test_what_changes_no_speed_is_measured_once():
    assert len(budget.to_measure(plan("momentum", seeds=(0, 1)).runs)) == 1
    assert len(budget.to_measure(plan("temperature").runs)) == 1
    assert len(budget.to_measure(plan(None, vary={"image_size": [16, 32]}).runs)) == 2


def test_between_two_sizes_lies_a_line():
    made = plan("queue", values=[8, 16, 24])
    measured = budget.to_measure(made.runs)
    known = rates(measured, [0.1, 0.3])
    assert [known.seconds_per_step(run.config) for run in made.runs] == pytest.approx([0.1, 0.2, 0.3])
    assert known.covers([run.config for run in made.runs])
    assert not known.covers([plan("queue", values=[32]).runs[0].config])
    again = budget.Rates.from_dict(json.loads(json.dumps(known.as_dict())))
    assert again == known


def test_a_kind_that_could_not_be_measured_has_no_rate():
    made = plan("momentum", values=[0.9])
    assert rates(budget.to_measure(made.runs), [None]).seconds_per_step(made.runs[0].config) is None


def test_processes_side_by_side_are_measured_side_by_side():
    made = plan("momentum", values=[0.9])
    reports = [{"seconds_per_step": [s], "start_seconds": s, "evaluation": {"linear": s}} for s in (1.0, 3.0)]
    known = budget.Rates.read(budget.to_measure(made.runs), reports)
    assert known.seconds_per_step(made.runs[0].config) == known.start_seconds == 2.0
    assert known.evaluation_seconds(linear=True, first=False) == 2.0


def test_the_evaluation_counts_what_is_asked_for():
    known = rates([], [], {"baselines": 100.0, "monitor": 10.0, "linear": 1.0})
    assert known.evaluation_seconds(linear=False, first=False) == 10
    assert known.evaluation_seconds(linear=True, first=False) == 11
    assert known.evaluation_seconds(linear=True, first=True) == 111
    assert rates([], []).evaluation_seconds(linear=True, first=True) == 0


@pytest.mark.parametrize(("seconds", "jobs", "wall"), [([4, 3, 2], 1, 9), ([4, 3, 2], 2, 5), ([], 2, 0), ([7], 3, 7)])
def test_runs_start_where_a_place_is_free(seconds, jobs, wall):
    assert budget.wall_seconds(seconds, jobs) == wall


def test_times_are_spelt():
    assert [budget.spell(s) for s in (5.2, 89, 600, 5400, 9000)] == ["5 s", "89 s", "10 min", "1.5 h", "2.5 h"]


def test_progress_follows_the_work_and_not_the_number_of_runs():
    progress = Progress({"long": 90.0, "short": 10.0}, {"long": 0.0, "short": 0.0}, runs=5, jobs=1, show=False)
    assert progress.remaining_seconds == 100
    progress.show(["long"], lambda name: 0.5)
    assert progress.share == pytest.approx(0.45)
    progress.finish("long")
    assert progress.share == pytest.approx(0.9)
    progress.finish("short")
    assert progress.share == 1.0
    assert progress.remaining_seconds == 0
    progress.close()


def test_a_curve_left_to_itself_is_no_part_of_the_budget(monkeypatch):
    """What a stated number adds is that many parts of the images; auto adds nothing to the figure at the end."""
    monkeypatch.setattr(measure, "_seconds", lambda action: 1.0)
    found = {}
    for count in (1, 3, "auto"):
        config = configure("v2", {"backbone": "resnet_tiny", "image_size": 16, "knn_evaluations": count})
        found[count] = measure.evaluation_seconds(config, 100, 50)["monitor"]
    assert found["auto"] > 0
    assert found[3] - found["auto"] == pytest.approx(3 * (found[1] - found["auto"]))
    assert found[1] > found["auto"]
