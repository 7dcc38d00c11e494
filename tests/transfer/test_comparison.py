"""Differences between initialisations, and the table."""

import pytest

from moco.transfer.fine_tuning.comparison import Comparison, Row
from moco.transfer.fine_tuning.schedule import Schedule


def compared(**scores):
    rows = tuple(
        Row(label, "weights", tuple(range(len(values))), tuple({"AP": v} for v in values), (), (), (1.0,) * len(values))
        for label, values in scores.items()
    )
    return Comparison("detection", "AP", rows, {}, Schedule(10, 0, (), 0.1), (), 1.0)


def test_differences_are_taken_seed_by_seed():
    (found,) = compared(moco=[11.0, 21.0, 31.0], random=[10.0, 20.0, 29.0]).differences
    assert found.mean == pytest.approx(4 / 3)
    assert found.error == pytest.approx(1 / 3)  # far less than the spread over seeds
    assert found.outcome == "above"


@pytest.mark.parametrize(
    ("moco", "random", "outcome"),
    [
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.1], "below"),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.1], "undecided"),
        ([2.0, 3.1], [1.0, 2.0], "undecided"),
        ([2.0], [1.0], "undecided"),
    ],
)
def test_an_outcome_needs_two_standard_errors_and_three_seeds(moco, random, outcome):
    assert compared(moco=moco, random=random).differences[0].outcome == outcome


def test_one_seed_has_no_spread():
    text = str(compared(moco=[2.0], random=[1.0]))
    assert "one seed: no spread" in text
    assert "±" not in text


def test_a_figure_that_a_run_lacks_is_a_dash():
    rows = compared(moco=[2.0], random=[1.0])
    lacking = Row("moco", "w", (0,), ({"AP": 2.0, "AP/rare": 1.0},), (), (), (1.0,))
    text = str(Comparison("detection", "AP", (lacking, rows.row("random")), {}, rows.schedule, (), 1.0))
    assert text.split("AP by class")[1].split("random")[1].split()[0] == "-"
