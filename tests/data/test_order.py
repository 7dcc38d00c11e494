"""Which image comes when is a pure function of seed and step."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data.order import COLORS, MODEL, SHUFFLE, VIEWS, EpochOrder, Sample, keyed_generator, keyed_seed


def images(samples):
    return [sample.image for sample in samples]


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(1, 60), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_each_image_comes_once_an_epoch_and_the_partial_batch_is_dropped(count, batch, seed, epoch):
    batch = min(batch, count)
    chosen = np.arange(count) * 3 + 100  # a part of a larger source
    order = EpochOrder(chosen, batch_size=batch, seed=seed)
    assert order.steps_per_epoch == count // batch
    first = epoch * order.steps_per_epoch
    samples = [sample for step in range(first, first + order.steps_per_epoch) for sample in order.batch(step)]
    assert len(samples) == count // batch * batch == len(set(images(samples)))
    assert set(images(samples)) <= set(chosen.tolist())
    places = [(sample.step, sample.position) for sample in samples]
    assert places == [(first + number // batch, number % batch) for number in range(len(samples))]


def test_a_step_does_not_depend_on_the_steps_before_it():
    """An iteration goes on from `first_step`, which is all that a resumed run needs."""
    walked = EpochOrder(np.arange(50), batch_size=8, seed=3)
    batches = list(itertools.islice(walked, 40))
    assert batches[0][0] == Sample(0, 0, batches[0][0].image)
    for step in (39, 0, 17, 5, 18, 6, 0):
        assert walked.batch(step) == batches[step] == EpochOrder(np.arange(50), batch_size=8, seed=3).batch(step)
        walked.first_step = step
        assert list(itertools.islice(walked, 3)) == [walked.batch(step + more) for more in range(3)]


@settings(max_examples=60, deadline=None)
@given(share=st.integers(1, 6), world_size=st.integers(1, 8), step=st.integers(0, 30), seed=st.integers(0, 99))
def test_ranks_share_out_the_batch(share, world_size, step, seed):
    """Positions count over all ranks."""
    options = {"batch_size": share * world_size, "seed": seed}
    ranks = [EpochOrder(np.arange(60), rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    assert {len(order.batch(step)) for order in ranks} == {share}
    together = [sample for order in ranks for sample in order.batch(step)]
    assert together == EpochOrder(np.arange(60), **options).batch(step)
    assert {order.steps_per_epoch for order in ranks} == {60 // options["batch_size"]}


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        images(EpochOrder(np.arange(200), batch_size=200, seed=seed).batch(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    for number, first in enumerate(orders):
        assert sorted(first) == list(range(200))
        for second in [*orders[:number], range(200)]:
            assert sum(one == two for one, two in zip(first, second, strict=True)) < 10  # of unrelated ones: about 1


def test_every_image_is_as_likely_to_come_first():
    """Chi-squared with 9 degrees of freedom is below 27.9 with probability 0.999."""
    order = EpochOrder(np.arange(10), batch_size=10, seed=7)
    found = np.bincount([order.batch(epoch)[0].image for epoch in range(2000)], minlength=10)
    assert ((found - 200) ** 2 / 200).sum() < 27.9


def test_equal_keys_give_equal_streams_and_every_part_of_the_key_counts():
    keys = [(seed, purpose, step, rank) for seed in (0, 1, 2**40) for purpose in (0, 1, 2, 3) for step in (0, 1, 9)
            for rank in (0, 1)]  # fmt: skip
    seeds = [keyed_seed(*key) for key in keys]
    assert seeds == [keyed_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({SHUFFLE, VIEWS, COLORS, MODEL}) == 4
    first, again, other = (torch.rand(4, generator=keyed_generator(*key)) for key in ((5, 1, 2), (5, 1, 2), (5, 1, 3)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_keys_of_different_lengths_do_not_run_into_each_other():
    assert keyed_seed(1, 0) != keyed_seed(1, 0, 0)
    assert keyed_seed(5 + 2**32, 0, 7) != keyed_seed(5, 1, 0, 7)
