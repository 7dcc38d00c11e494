"""Laws of the choice of negatives. N: samples   C: embedding width   K: keys in the queue"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from moco.contrast import (
    MoCo,
    Queue,
    contrast_loss,
    contrast_step,
    half_cosine,
    in_batch_info_nce,
    moco_step,
)
from tests.contrast.test_algorithm_laws import same
from tests.contrast.test_loss import unit_rows
from tests.reference.similarity import plain_negatives


def model(width: int = 6, **options: Any) -> MoCo:
    options = {"dictionary_size": 7, "embedding_dim": 4, **options}
    return MoCo(nn.Linear(width, options["embedding_dim"]), key_momentum=0.5, temperature=0.2, **options)


def sgd(made: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(made.query_side.parameters(), lr=0.1)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9), k=st.integers(1, 12), chunk=st.integers(1, 25), ids=st.booleans(), seed=st.integers(0, 10_000)
)
def test_batch_and_queue_are_one_dictionary_in_value_and_gradient(
    n: int, k: int, chunk: int, ids: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    q, positives, keys = (unit_rows(rows, 5, torch.float64) for rows in (n, n, k))
    q.requires_grad_()
    ids_n, ids_k = torch.randint(0, 4, (n,)), torch.randint(-1, 4, (k,))
    given_ids = {"ids_N": ids_n, "ids_K": ids_k} if ids else {}
    ours, _ = in_batch_info_nce(q, positives, keys, temperature=0.3, chunk_size=chunk, **given_ids)
    lists = {name: value.tolist() for name, value in given_ids.items()}
    naive = plain_negatives(q, positives, keys, 0.3, batch=True, **lists)
    torch.testing.assert_close((ours, *torch.autograd.grad(ours, q)), (naive, *torch.autograd.grad(naive, q)))


def test_a_negative_id_is_no_samples() -> None:
    q, k, keys = unit_rows(3, 4), unit_rows(3, 4), unit_rows(6, 4)
    unknown = {"ids_N": torch.full((3,), -1), "ids_K": torch.full((6,), -1)}
    masked, plain = (in_batch_info_nce(q, k, keys, temperature=0.3, **ids)[0] for ids in (unknown, {}))
    assert torch.equal(masked, plain)


def test_keys_with_a_gradient_get_it_beside_a_queue() -> None:
    q, k = (unit_rows(5, 4).requires_grad_() for _ in range(2))
    keys = unit_rows(6, 4)
    ours, _ = in_batch_info_nce(q, k, keys, temperature=0.3)
    naive = plain_negatives(q, k, keys, 0.3, batch=True)
    torch.testing.assert_close(torch.autograd.grad(ours, (q, k)), torch.autograd.grad(naive, (q, k)))


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_queue_in_fewer_bits_joins_a_batch(dtype: Any) -> None:
    q, k, queue = unit_rows(5, 4), unit_rows(5, 4), Queue(6, 4, dtype=dtype)
    ours, _ = in_batch_info_nce(q, k, queue.keys, temperature=0.3, chunk_size=4)
    torch.testing.assert_close(ours, plain_negatives(q, k, queue.keys.to(torch.float32), 0.3, batch=True))


@pytest.mark.parametrize("negatives", ["queue", "batch", "both"])
@pytest.mark.parametrize("ids", [None, torch.tensor([3, 3, 0, 1, 0])])
def test_a_models_negatives_are_the_ones_it_is_told(negatives: Any, ids: Tensor | None) -> None:
    torch.manual_seed(0)
    made = model(with_ids=ids is not None)
    x_q, x_k = torch.randn(2, 5, 6)
    contrast_step(made, x_q, x_k, sgd(made), negatives=negatives, ids_N=ids)
    assert ids is None or made.queue.ids_K.tolist() == [3, 3, 0, 1, 0, -1, -1]
    keys = torch.zeros(0, 4) if negatives == "batch" else made.queue.keys_KC
    held = None if ids is None else ids.tolist()
    in_queue = None if ids is None or negatives == "batch" else made.queue.ids_K.tolist()
    if negatives == "batch" and held is not None:
        in_queue = []
    naive = plain_negatives(
        made.query(x_q), made.key(x_k), keys, 0.2, batch=negatives != "queue", ids_N=held, ids_K=in_queue
    )
    torch.testing.assert_close(contrast_loss(made, x_q, x_k, negatives=negatives, ids_N=ids).loss, naive)


def test_the_queue_alone_is_algorithm_1_bit_for_bit() -> None:
    made = model()
    twin = copy.deepcopy(made)
    optimizers = sgd(made), sgd(twin)
    for _ in range(4):
        batch = torch.randn(2, 5, 6)
        contrast_step(made, *batch, optimizers[0])
        moco_step(twin, *batch, optimizers[1])
    assert same(made.state_dict(), twin.state_dict())


def test_without_negatives_the_loss_is_the_distance_of_the_positives() -> None:
    made, (x_q, x_k) = model(), torch.randn(2, 5, 6)
    loss, accuracy, _ = contrast_loss(made, x_q, x_k, negatives="none")
    torch.testing.assert_close(loss, ((made.query(x_q) - made.key(x_k)).square().sum(dim=1) / 2 / 0.2).mean())
    assert accuracy == 1


def test_ids_leave_with_their_keys() -> None:
    queue = Queue(5, 3, with_ids=True)
    for first in range(0, 12, 4):
        queue.enqueue(unit_rows(4, 3), torch.arange(first, first + 4))
    assert sorted(queue.ids_K.tolist()) == [7, 8, 9, 10, 11]
    before = queue.keys_KC.clone()
    queue.enqueue(torch.full((1, 3), torch.nan), torch.tensor([99]))
    assert 99 not in queue.ids_K.tolist()
    assert torch.equal(queue.keys_KC, before)


def test_key_mode_eval_keeps_dropout_off_the_keys_alone() -> None:
    encoder = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5))
    made = MoCo(encoder, dictionary_size=7, embedding_dim=4, key_momentum=0.5, temperature=0.2, key_mode="eval").train()
    x = torch.randn(5, 6)
    assert torch.equal(made.key(x), made.key(x))
    assert not torch.equal(made.query(x), made.query(x))


def test_half_a_cosine_goes_from_start_to_end() -> None:
    values = [half_cosine(step, 10, start=0.8, end=0.2) for step in range(13)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.8)
    assert values[5] == pytest.approx(0.5)
    assert values[10:] == pytest.approx([0.2] * 3)


X = torch.randn(5, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: contrast_loss(model(), X, X, negatives="all"), "choose one of queue, batch, both, none"),
        (lambda: contrast_loss(model(), X, X, ids_N=torch.arange(5)), "give both or none"),
        (lambda: contrast_loss(model(with_ids=True), X, X), "give both or none"),
        (lambda: contrast_loss(model(with_ids=True), X, X, ids_N=torch.arange(4)), "expected \\(5,\\) and \\(7,\\)"),
        (lambda: contrast_loss(model(similarity="dot"), X, X, negatives="none"), "needs similarity='cosine'"),
        (lambda: contrast_loss(model(), X[:1], X[:1], negatives="batch"), "need at least 2 samples"),
        (lambda: Queue(5, 3).enqueue(unit_rows(2, 3), torch.arange(2)), "keeps no ids"),
        (lambda: Queue(5, 3, with_ids=True).enqueue(unit_rows(2, 3)), "expected \\(2,\\)"),
        (lambda: model(key_mode="train"), "choose one of follow, eval"),
        (
            lambda: MoCo(
                nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)),
                dictionary_size=7,
                embedding_dim=4,
                key_momentum=0.5,
                temperature=0.2,
                key_mode="eval",
            ),
            "batchnorm='average'",
        ),
        (lambda: half_cosine(0, 0, start=0, end=1), "at least 1 step"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
