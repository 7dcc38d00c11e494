"""Laws of the loss where the dictionary holds queries' own samples. N: samples   K: keys   C: embedding width"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moco.contrast import info_nce
from moco.contrast.loss import TILE_ROWS, in_batch_info_nce, scored_info_nce
from tests.contrast.test_loss import unit_rows, value_and_gradients
from tests.reference.info_nce import plain_accuracy, plain_in_batch, plain_without_own


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 25),
    c=st.integers(1, 12),
    temperature=st.sampled_from([0.07, 0.2, 1.0]),
    chunk=st.integers(1, 30),
    seed=st.integers(0, 10_000),
)
def test_in_batch_equals_cross_entropy_over_all_pairs_in_value_and_both_gradients(
    n: int, c: int, temperature: float, chunk: int, seed: int
) -> None:
    torch.manual_seed(seed)
    q, k = (unit_rows(n, c, torch.float64).requires_grad_() for _ in range(2))
    loss, _ = in_batch_info_nce(q, k, temperature=temperature, chunk_size=chunk)
    ours, naive = value_and_gradients(loss, q, k), value_and_gradients(plain_in_batch(q, k, temperature), q, k)
    torch.testing.assert_close(ours, naive, rtol=1e-11, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 9), k=st.integers(1, 30), chunk=st.integers(1, 35), seed=st.integers(0, 10_000))
def test_an_own_row_is_no_negative_and_gets_no_gradient_from_its_query(n: int, k: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    tensors = [unit_rows(rows, 5, torch.float64).requires_grad_() for rows in (n, n, k)]
    own = torch.randint(-1, k, (n,))
    loss, _ = scored_info_nce(*tensors, temperature=0.3, own_N=own, chunk_size=chunk)
    naive = value_and_gradients(plain_without_own(*tensors, own, 0.3), *tensors)
    torch.testing.assert_close(value_and_gradients(loss, *tensors), naive, rtol=1e-11, atol=1e-11)


def test_loss_of_equal_keys_is_the_log_of_the_batch() -> None:
    same = unit_rows(1, 8).expand(6, 8)
    assert in_batch_info_nce(same, same, temperature=0.07)[0].item() == pytest.approx(math.log(6), abs=1e-5)


def test_keys_without_gradient_leave_the_queries_gradient() -> None:
    q, k = unit_rows(7, 4).requires_grad_(), unit_rows(7, 4)
    loss, accuracy = in_batch_info_nce(q, k, temperature=0.2)
    torch.testing.assert_close(torch.autograd.grad(loss, q), torch.autograd.grad(plain_in_batch(q, k, 0.2), q))
    assert not accuracy.requires_grad


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), k=st.integers(1, 20), chunk=st.integers(1, 25), seed=st.integers(0, 10_000))
def test_accuracy_counts_the_queries_whose_positive_beats_every_negative(n: int, k: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    q = unit_rows(n, 3, torch.float64)
    positives, keys = torch.nn.functional.normalize(q + torch.randn_like(q), dim=1), unit_rows(k, 3, torch.float64)
    for own in (None, torch.randint(-1, k, (n,))):
        _, accuracy = scored_info_nce(q, positives, keys, temperature=0.2, own_N=own, chunk_size=chunk)
        assert accuracy.item() == pytest.approx(plain_accuracy(q, positives, keys, own))


def test_a_tie_is_not_a_hit() -> None:
    q, keys = torch.eye(3), torch.eye(3)
    assert scored_info_nce(q, q, keys, temperature=0.2)[1].item() == 0
    assert in_batch_info_nce(q, q, temperature=0.2)[1].item() == 1


def test_the_scored_loss_is_the_loss() -> None:
    tensors = [unit_rows(rows, 6) for rows in (5, 5, 13)]
    assert torch.equal(scored_info_nce(*tensors, temperature=0.2)[0], info_nce(*tensors, temperature=0.2))


def test_a_single_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 1: .* need at least 2 samples"):
        in_batch_info_nce(unit_rows(1, 3), unit_rows(1, 3), temperature=0.2)


@pytest.mark.parametrize("own", [torch.zeros(3, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)])
def test_own_rows_that_do_not_fit_are_refused(own: Tensor) -> None:
    with pytest.raises(ValueError, match="one for each query"):
        scored_info_nce(unit_rows(2, 3), unit_rows(2, 3), unit_rows(5, 3), temperature=0.2, own_N=own)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 25), tile=st.integers(1, 30), chunk=st.integers(1, 30), seed=st.integers(0, 10_000))
def test_tiles_of_the_queries_change_neither_loss_nor_gradients(n: int, tile: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    q, k = (unit_rows(n, 5, torch.float64).requires_grad_() for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moco.contrast.loss.TILE_ROWS", tile)
        loss, accuracy = in_batch_info_nce(q, k, temperature=0.2, chunk_size=chunk)
        ours = value_and_gradients(loss, q, k)
    naive = value_and_gradients(plain_in_batch(q, k, 0.2), q, k)
    torch.testing.assert_close(ours, naive, rtol=1e-11, atol=1e-11)
    assert accuracy.item() == pytest.approx(plain_accuracy(q.detach(), k.detach(), k.detach(), torch.arange(n)))


def test_a_large_batch_makes_no_block_that_grows_with_it() -> None:
    largest = 0

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            largest = max(largest, made.untyped_storage().nbytes() if isinstance(made, Tensor) else 0)
            return made

    q, k = (unit_rows(3000, 4).requires_grad_() for _ in range(2))
    with Watching():
        in_batch_info_nce(q, k, temperature=0.2, chunk_size=100)[0].backward()
    assert largest == TILE_ROWS * 100 * 4


def test_a_large_batch_has_the_plain_gradients_in_single_precision() -> None:
    q, k = (unit_rows(2 * TILE_ROWS + 3, 16).requires_grad_() for _ in range(2))
    loss, _ = in_batch_info_nce(q, k, temperature=0.2)
    naive = torch.autograd.grad(plain_in_batch(q, k, 0.2), (q, k))
    for ours, plain in zip(torch.autograd.grad(loss, (q, k)), naive, strict=True):
        assert (ours - plain).norm() <= 1e-5 * plain.norm()
