"""What a run is called, over all orders of its figure and those that it has to beat."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from moco.evaluation.figures import outcome
from moco.evaluation.verdict import CALLED, Compared, verdict

BESIDE = [("random_init", "pixels"), ("random_init", "pixels", "imagenet")]
BESIDE += [("from_scratch",), tuple(CALLED)]
PHRASES = {"better": "better than ", "undecided": "not decided against ", "worse": "worse than "}


@pytest.mark.parametrize("networks", BESIDE, ids="-".join)
def test_every_order_has_its_sentence(networks):
    for outcomes in itertools.product(PHRASES, repeat=len(networks)):
        said = verdict([Compared(*pair) for pair in zip(networks, outcomes, strict=True)])
        judged, _, advice = said.partition(": ")
        for word, phrase in PHRASES.items():
            group = [CALLED[name] for name, out in zip(networks, outcomes, strict=True) if out == word]
            assert (phrase in judged) is bool(group)
            assert not group or phrase + " and ".join(group) in judged
        assert ("worth using" in advice) is (set(outcomes) == {"better"})
        pressing = [out for out, name in zip(outcomes, networks, strict=True) if name in ("random_init", "pixels")]
        assert not advice.startswith("train longer, or ask") or "worse" not in pressing
        backwards = [Compared(*pair) for pair in reversed(list(zip(networks, outcomes, strict=True)))]
        assert verdict(backwards) == said


@pytest.mark.parametrize(
    ("run", "pixels", "random", "said"),
    [
        (0.60, 0.45, 0.35, "better than untrained and raw pixels: the features are worth using"),
        (0.40, 0.45, 0.35, "better than untrained, worse than raw pixels: train longer; if that does not help, milder"),
        (0.45, 0.45, 0.35, "better than untrained, not decided against raw pixels: train longer, or judge by more"),
        (0.35, 0.45, 0.35, "not decided against untrained, worse than raw pixels: train longer; if that does not"),
        (0.45, 0.45, 0.45, "not decided against untrained and raw pixels: train longer, or judge by more"),
        (0.45, 0.35, 0.45, "better than raw pixels, not decided against untrained: train longer, or judge by more"),
        (0.40, 0.35, 0.45, "better than raw pixels, worse than untrained: lower --base-learning-rate"),
        (0.35, 0.35, 0.45, "not decided against raw pixels, worse than untrained: lower --base-learning-rate"),
        (0.35, 0.45, 0.60, "worse than untrained and raw pixels: lower --base-learning-rate"),
    ],
)
def test_all_orders_of_figures_with_ties(run, pixels, random, said):
    beside = {"pixels": pixels, "random_init": random}
    assert verdict([Compared(name, outcome(run, value, 4000)) for name, value in beside.items()]).startswith(said)


def test_a_difference_within_its_uncertainty_decides_nothing():
    assert outcome(0.45, 0.40, 4000) == "better"
    assert outcome(0.40, 0.45, 4000) == "worse"
    assert outcome(0.45, 0.40, 200) == outcome(0.40, 0.45, 200) == "undecided"
    assert outcome(1.0, 0.9, 5) == outcome(1.0, 1.0, 5) == "undecided"
    assert outcome(1.0, 0.0, 5) == "better"


def test_the_interval_of_a_difference_is_newcombes():
    """Beside one from the roots of Wilson's equation, (p - x)^2 = z^2 x (1 - x) / n, for all pairs of counts."""
    n, z = 24, 1.959964

    def ends(p):
        return sorted(np.roots([1 + z * z / n, -2 * p - z * z / n, p * p]).real)

    for first, second in itertools.product(range(n + 1), repeat=2):
        p, q = first / n, second / n
        (p_low, p_high), (q_low, q_high) = ends(p), ends(q)
        low = p - q - ((p - p_low) ** 2 + (q_high - q) ** 2) ** 0.5
        high = p - q + ((p_high - p) ** 2 + (q - q_low) ** 2) ** 0.5
        assert outcome(p, q, n) == ("better" if low > 0 else "worse" if high < 0 else "undecided")


def test_beside_nothing_there_is_no_verdict_and_parts_are_named():
    assert verdict([]) is None
    part = " at 0.01 of the labels"
    few, all_labels = Compared("from_scratch", "better", part), Compared("from_scratch", "worse")
    assert verdict([few, all_labels]).startswith(f"better than training from scratch{part}, worse than training from")
