"""Repeat-factor sampling: the formula, and images as often as it says."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.errors import ConfigError
from moco.transfer.detection.repeat_factor import RepeatedOrder, repeat_factors
from tests.reference import repeat_factor as reference


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=20), st.floats(0.01, 1))
def test_factors_are_those_of_the_formula(categories, threshold):
    found = repeat_factors(categories, threshold=threshold)
    assert found == pytest.approx(reference.repeat_factors(categories, threshold))


def drawn(order, steps):
    return list(itertools.islice(order, steps))


def test_an_image_comes_as_often_as_its_factor_says():
    factors = np.array([1.0, 1.0, 2.5, 4.0])
    batches = drawn(RepeatedOrder(factors, batch_size=4, seed=0), 850)
    counts = Counter(sample.image for batch in batches for sample in batch)
    passes = counts[0]
    assert abs(counts[1] - passes) <= 1
    assert counts[3] == pytest.approx(4 * passes, abs=4)
    assert counts[2] == pytest.approx(2.5 * passes, rel=0.05)


def test_without_rare_categories_every_pass_has_each_image_once():
    batches = drawn(RepeatedOrder(np.ones(8), batch_size=4, seed=0), 4)
    for pair in (batches[:2], batches[2:]):
        assert sorted(sample.image for batch in pair for sample in batch) == list(range(8))


@pytest.mark.parametrize("start", [1, 3, 10])
def test_a_resumed_order_goes_on_where_it_was(start):
    factors = np.array([1.0, 1.7, 2.5, 1.2, 3.3])
    whole, resumed = (RepeatedOrder(factors, batch_size=4, seed=1) for _ in range(2))
    resumed.first_step = start
    assert drawn(resumed, 5) == drawn(whole, start + 5)[start:]


def test_ranks_share_the_batches_of_one_process():
    factors = np.array([1.0, 1.7, 2.5, 1.2, 3.3])
    alone = drawn(RepeatedOrder(factors, batch_size=4, seed=1), 6)
    ranks = [drawn(RepeatedOrder(factors, batch_size=4, seed=1, rank=r, world_size=2), 6) for r in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ConfigError):
        repeat_factors([[0]], threshold=threshold)
