"""Laws of the decoupled loss, which has no positive in its denominator. N: samples   K: keys   C: embedding width"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.contrast import (
    EndToEnd,
    MemoryBank,
    MoCoV3,
    MoCoVariant,
    end_to_end_loss,
    memory_bank_loss,
    moco_v3_loss,
    variant_loss,
)
from moco.contrast.loss import in_batch_info_nce, scored_info_nce
from tests.contrast.test_loss import unit_rows, value_and_gradients
from tests.reference.info_nce import plain_accuracy, plain_decoupled


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 9),
    k=st.integers(2, 30),
    temperature=st.sampled_from([0.05, 0.2, 1.0]),
    chunk=st.integers(1, 35),
    seed=st.integers(0, 10_000),
    owns=st.booleans(),
)
def test_streaming_equals_plain_in_value_and_every_gradient(n, k, temperature, chunk, seed, owns) -> None:
    torch.manual_seed(seed)
    tensors = [unit_rows(rows, 5, torch.float64).requires_grad_() for rows in (n, n, k)]
    own = torch.randint(-1, k, (n,)) if owns else None
    loss, accuracy = scored_info_nce(*tensors, temperature=temperature, own_N=own, decoupled=True, chunk_size=chunk)
    naive = value_and_gradients(plain_decoupled(*tensors, temperature, own), *tensors)
    torch.testing.assert_close(value_and_gradients(loss, *tensors), naive, rtol=1e-10, atol=1e-10)
    assert accuracy.item() == pytest.approx(plain_accuracy(*(tensor.detach() for tensor in tensors), own))


def test_in_batch_negatives_are_the_other_keys() -> None:
    torch.manual_seed(0)
    q, k = (unit_rows(7, 4, torch.float64).requires_grad_() for _ in range(2))
    ours = in_batch_info_nce(q, k, temperature=0.2, decoupled=True)[0]
    naive = plain_decoupled(q, k, k, 0.2, torch.arange(7))
    torch.testing.assert_close(
        value_and_gradients(ours, q, k), value_and_gradients(naive, q, k), rtol=1e-11, atol=1e-11
    )


def test_equal_logits_give_the_log_of_the_number_of_negatives() -> None:
    same = unit_rows(1, 8)
    loss, _ = scored_info_nce(
        same.expand(3, 8), same.expand(3, 8), same.expand(50, 8), temperature=0.07, decoupled=True
    )
    assert loss.item() == pytest.approx(math.log(50), abs=1e-5)


@pytest.mark.parametrize("match", [1.0, -1.0])
def test_it_is_finite_at_extreme_temperature(match: float) -> None:
    torch.manual_seed(3)
    q = unit_rows(6, 16).requires_grad_()
    keys = -match * unit_rows(1, 16).expand(40, 16) + 0.01 * unit_rows(40, 16)
    ours = value_and_gradients(
        scored_info_nce(q, match * q.detach(), keys, temperature=1e-3, decoupled=True, chunk_size=7)[0], q
    )
    assert all(tensor.isfinite().all() for tensor in ours)


@pytest.mark.parametrize(("keys", "own"), [(0, None), (1, torch.zeros(2, dtype=torch.long))])
def test_a_query_without_any_negative_is_refused(keys: int, own: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="at least one negative"):
        scored_info_nce(
            unit_rows(2, 3), unit_rows(2, 3), unit_rows(keys, 3), temperature=0.2, own_N=own, decoupled=True
        )


def linear(width: int = 6) -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Linear(5, width)


def views() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(8, 5), torch.randn(8, 5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_queues_loss_is_the_twins(symmetric: bool) -> None:
    shared = {"dictionary_size": 12, "embedding_dim": 6, "key_momentum": 0.9, "temperature": 0.2}
    model, (x_1, x_2) = MoCoVariant(linear(), decoupled=True, **shared), views()
    q_1, q_2, k_1, k_2 = model.query(x_1), model.query(x_2), model.key(x_1), model.key(x_2)
    expected = plain_decoupled(q_1, k_2, model.queue.keys_KC, 0.2)
    if symmetric:
        expected = expected + plain_decoupled(q_2, k_1, model.queue.keys_KC, 0.2)
    loss = variant_loss(model, x_1, x_2, symmetric=symmetric).loss
    torch.testing.assert_close(loss, expected)


def test_the_other_mechanisms_honour_it() -> None:
    shared, (x_1, x_2) = {"embedding_dim": 6, "temperature": 0.2, "decoupled": True}, views()
    pair = EndToEnd(linear(), **shared)
    expected = plain_decoupled(pair.query(x_1), pair.key(x_2), pair.key(x_2), 0.2, torch.arange(8))
    torch.testing.assert_close(end_to_end_loss(pair, x_1, x_2).loss, expected)
    v3 = MoCoV3(linear(), torch.nn.Linear(6, 6), key_momentum=0.9, **shared)
    parts = [
        plain_decoupled(v3.query(a), v3.key(b), v3.key(b), 0.2, torch.arange(8)) for a, b in ((x_1, x_2), (x_2, x_1))
    ]
    torch.testing.assert_close(moco_v3_loss(v3, x_1, x_2).loss, 2 * 0.2 * sum(parts))
    bank, own = MemoryBank(linear(), num_samples=9, dictionary_size=9, bank_momentum=0.5, **shared), torch.arange(8)
    stored = bank.bank.embeddings_MC
    expected = plain_decoupled(bank.query(x_1), stored[own], stored, 0.2, own)
    torch.testing.assert_close(memory_bank_loss(bank, x_1, own).loss, expected)
