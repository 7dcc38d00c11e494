"""Intervals, average precision and label-free scores: against hand computation, libraries and known limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moco.errors import DataError
from moco.evaluation.figures import average_precision, bootstrap, figure, wilson
from moco.evaluation.label_free import alignment, effective_rank, feature_std, uniformity


def test_wilson_is_the_published_interval():
    low, high = wilson(0.9, 10)  # 9 of 10: 0.596 to 0.982 (Brown, Cai and DasGupta 2001, by their formula)
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(1.0, 50)[1] == pytest.approx(1.0)
    assert wilson(0.0, 50)[0] == pytest.approx(0.0)


def test_wilson_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = generator.binomial(60, 0.8, 4000)
    covered = [low <= 0.8 <= high for low, high in (wilson(h / 60, 60) for h in hits)]
    assert 0.93 < np.mean(covered) < 0.97


def test_bootstrap_of_a_mean_has_the_normal_width():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda at: float(values[at].mean()), 400, resamples=2000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert (low, high) == bootstrap(lambda at: float(values[at].mean()), 400, resamples=2000)


def test_resamples_without_a_figure_are_left_out():
    def share(at: np.ndarray) -> float:
        return math.nan if at[0] == 0 else 0.25  # as mAP is where no image of a resample has a class

    assert bootstrap(share, 4, resamples=500) == (0.25, 0.25)


def test_average_precision_is_scikit_learns_ties_included():
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (60, 5), generator=generator).double()
    targets = torch.randint(0, 2, (60, 5), generator=generator)
    expected = [sklearn.average_precision_score(targets[:, c], scores[:, c]) for c in range(5)]
    assert average_precision(scores, targets).tolist() == pytest.approx(expected)
    targets[:, 2] = 0
    assert figure(scores, targets) == pytest.approx(np.mean(expected[:2] + expected[3:]))


def test_effective_rank_of_equal_directions_is_their_number():
    for rank in (1, 3, 7):
        features = torch.eye(10)[:rank].repeat(40, 1)
        assert effective_rank(features) == pytest.approx(rank, rel=1e-3)


def test_effective_rank_is_the_entropy_of_the_singular_values():
    features = torch.randn(300, 20, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0.01, 20)
    singular = torch.linalg.svdvals(features.double())
    shares = singular / singular.sum()
    assert effective_rank(features) == pytest.approx(math.exp(-(shares * shares.log()).sum()), rel=1e-4)


def test_collapsed_features_are_told_from_even_ones():
    collapsed = torch.ones(200, 64) + 1e-4 * torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    even = torch.randn(2000, 64, generator=torch.Generator().manual_seed(1))
    assert feature_std(collapsed) < 1e-3
    assert feature_std(even) == pytest.approx(1.0, abs=0.01)
    assert uniformity(collapsed) == pytest.approx(0.0, abs=1e-3)
    assert -4.0 < uniformity(even) < -3.8
    assert effective_rank(collapsed) < 1.1


def test_alignment_and_uniformity_by_hand():
    a, b = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert alignment(a, b) == pytest.approx((2 + 0) / 2)
    assert uniformity(a) == pytest.approx(-2 * 2)  # one pair at squared distance 2
    many = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))  # more than one block
    unit = torch.nn.functional.normalize(many.double(), dim=1)
    assert uniformity(many) == pytest.approx(torch.pdist(unit).square().mul(-2).exp().mean().log().item())


def test_features_that_have_no_score_are_refused():
    with pytest.raises(DataError, match="at least two images"):
        uniformity(torch.ones(1, 4))
    with pytest.raises(DataError, match="NaN"):
        effective_rank(torch.full((4, 4), torch.nan))
    with pytest.raises(DataError, match="all features are zero"):
        effective_rank(torch.zeros(4, 4))
    with pytest.raises(DataError, match="two views"):
        alignment(torch.ones(3, 4), torch.ones(4, 4))
