"""Laws of the groups of split BatchNorm and of batches. N: samples   S: groups"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moco.contrast.batch import batch_length
from moco.contrast.batchnorm import (
    has_batchnorm,
    interleave,
    resolve_groups,
    split_batchnorm,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(("batch", "groups"), [(2, 1), (7, 1), (8, 2), (15, 3), (31, 7), (32, 8), (512, 8)])
def test_default_groups_hold_at_least_four_samples(batch: int, groups: int) -> None:
    assert resolve_groups(None, batch) == groups


def test_too_few_samples_for_the_groups_are_refused() -> None:
    assert resolve_groups(4, 8) == 4
    with pytest.raises(ValueError, match="split BatchNorm with 4 groups and a batch of 7: need at least 8 samples"):
        resolve_groups(4, 7)
    with pytest.raises(ValueError, match="need at least 8 samples"):
        split_batchnorm(nn.BatchNorm1d(3), 4)(torch.randn(7, 3))
    with pytest.raises(ValueError, match="batch of 1 with BatchNorm: its statistics need at least 2"):
        split_batchnorm(nn.BatchNorm1d(3), None)(torch.randn(1, 3))
    with pytest.raises(ValueError, match=r"input of shape \(8,\): expected \(N, C, ...\)"):
        split_batchnorm(nn.BatchNorm1d(3), 2)(torch.randn(8))


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 50), groups=st.integers(1, 9))
def test_interleave_puts_sample_n_into_block_n_mod_s(length: int, groups: int) -> None:
    order = interleave(length, groups, CPU)
    assert sorted(order.tolist()) == list(range(length))
    for g, block in enumerate(order.tensor_split(groups)):
        assert all(n % groups == g for n in block.tolist())


def test_has_batchnorm_sees_only_statistics_of_the_batch() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert has_batchnorm(net)
    assert has_batchnorm(split_batchnorm(net, 2))
    assert not has_batchnorm(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm1d(3)))


@pytest.mark.parametrize("batch", [{}, "text", (torch.zeros(2), torch.zeros(3))])
def test_batches_without_one_length_are_refused(batch: object) -> None:
    with pytest.raises(ValueError, match=r"a batch whose tensors have \[.*\] samples: expected one or more"):
        batch_length(batch)
