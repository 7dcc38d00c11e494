"""From answers to figures, intervals and differences: signs, sizes and pairing, by hand."""

from __future__ import annotations

import pytest
import torch

from moco.evaluation.figures import Answers, wilson

TARGETS = torch.arange(200) % 2


def answers(*right: int, network: str = "run") -> Answers:
    """One network a seed; that of each seed is right on so many of the 200 images, the first ones."""
    given = [torch.where(torch.arange(200) < count, TARGETS, 1 - TARGETS) for count in right]
    return Answers(given, network, "knn_top1", "features", "")


def several(flip: int) -> Answers:
    """Scores of two classes each image may have; wrong way round on the last `flip` images."""
    scores = torch.stack([TARGETS, 1 - TARGETS], dim=1).float()
    scores[200 - flip :] = 1 - scores[200 - flip :]
    return Answers([scores], "run", "knn_map", "features", "")


def test_the_figure_is_the_share_of_right_answers_with_wilsons_interval_of_all_images():
    row = answers(160).row(TARGETS)
    assert row.values == (0.8,)
    assert row.interval == wilson(0.8, 200)
    seeds = answers(160, 100).row(TARGETS)
    assert seeds.values == (0.8, 0.5)
    assert seeds.interval == wilson(0.65, 200), "seeds are no further images"


def test_the_difference_is_the_runs_less_the_others():
    better = answers(160).less(answers(100, network="random_init"), TARGETS)
    assert better.difference == pytest.approx(0.3)
    assert (better.verdict, better.baseline) == ("better", "random_init")
    worse = answers(100).less(answers(160), TARGETS)
    assert worse.difference == pytest.approx(-0.3)
    assert worse.verdict == "worse"


def test_the_interval_of_a_difference_is_as_wide_as_the_images_on_which_they_differ():
    found = answers(160).less(answers(100), TARGETS)
    deviation = (0.3 * 0.7 / 200) ** 0.5  # a gain of 1 on three in ten images, of 0 on the others
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert answers(160).less(answers(160), TARGETS).interval == (0, 0), "paired: no doubt about equal answers"
    assert answers(101).less(answers(100), TARGETS).verdict == "undecided"


def test_differences_of_mean_average_precision_are_paired_too():
    targets = torch.stack([TARGETS, 1 - TARGETS], dim=1).float()
    assert several(0).row(targets).values == (1.0,)
    equal = several(60).less(several(60), targets)
    assert (equal.difference, equal.interval) == (0, (0, 0))
    worse = several(60).less(several(0), targets)
    assert worse.difference < 0
    assert worse.verdict == "worse"
