"""Held-out images: apart from the rest, balanced over classes, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data.arrays import ArraySource
from moco.data.split import hold_out

PIXEL = np.zeros((1, 1, 1, 3), dtype=np.uint8)


def source_of(labels, count=None):
    count = len(labels) if count is None else count
    return ArraySource(np.broadcast_to(PIXEL, (count, 1, 1, 3)), labels)


@settings(deadline=None, max_examples=150)
@given(
    labels=st.lists(st.integers(-1, 5), min_size=1, max_size=80),
    fraction=st.floats(0, 0.95),
    maximum=st.none() | st.integers(0, 40),
    seed=st.integers(0, 3),
)
def test_laws_of_a_split(labels, fraction, maximum, seed):
    labels = np.array(labels)
    source = source_of(labels)
    rest, held_out = hold_out(source, fraction=fraction, seed=seed, maximum=maximum)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held_out])), np.arange(len(labels)))
    assert rest.dtype == held_out.dtype == np.int64
    assert np.all(np.diff(held_out) > 0)
    assert np.all(labels[held_out] >= 0)
    sizes = np.bincount(labels[labels >= 0], minlength=6)
    kept = np.bincount(labels[rest][labels[rest] >= 0], minlength=6)
    assert np.all(kept[sizes > 0] >= 1)
    wanted = round(fraction * int(sizes.sum()))
    wanted = wanted if maximum is None else min(wanted, maximum)
    assert len(held_out) == min(wanted, int(np.maximum(sizes - 1, 0).sum()))
    given_ = np.bincount(labels[held_out], minlength=6)
    if np.count_nonzero(sizes > 1) <= len(held_out):
        assert np.all(given_[sizes > 1] >= 1)
    again = hold_out(source, fraction=fraction, seed=seed, maximum=maximum)[1]
    np.testing.assert_array_equal(again, held_out)


def test_every_class_gives_the_same_share():
    labels = np.repeat([0, 1, 2, 3], [1000, 500, 200, 10])
    _, held_out = hold_out(source_of(labels), fraction=0.1, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [100, 50, 20, 1])
    _, held_out = hold_out(source_of(labels), fraction=0.1, seed=0, maximum=17)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [9, 5, 2, 1])


def test_seed_decides_which_images():
    source = source_of(np.zeros(1000, dtype=int))
    draws = [hold_out(source, fraction=0.1, seed=seed)[1] for seed in (0, 1)]
    assert len(np.intersect1d(*draws)) < 50
    assert abs(draws[0].mean() - 500) < 120  # from all over the source, not from one end


def test_without_labels_images_are_drawn_from_all():
    rest, held_out = hold_out(source_of(None, count=200), fraction=0.25, seed=0)
    assert (len(rest), len(held_out)) == (150, 50)
    rest, held_out = hold_out(source_of(-np.ones(200, dtype=int)), fraction=0.25, seed=0)
    assert (len(rest), len(held_out)) == (200, 0)


def test_impossible_requests_are_refused():
    source = source_of(np.zeros(4, dtype=int))
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="fraction="):
            hold_out(source, fraction=fraction, seed=0)
    with pytest.raises(ValueError, match="maximum=-1"):
        hold_out(source, fraction=0.5, seed=0, maximum=-1)
