"""Laws of the similarities. N: samples   C: embedding width"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from moco.contrast import Bilinear, EndToEnd, LearnedTemperature, MemoryBank, MoCo, in_batch_info_nce, moco_loss
from moco.contrast import moco_step as step
from tests.reference.info_nce import plain_info_nce
from tests.reference.similarity import clip_loss, curl_loss


def model(**options: Any) -> MoCo:
    torch.manual_seed(0)
    options = {"key_momentum": 0.5, "temperature": 0.2, "embedding_dim": 4, **options}
    return MoCo(nn.Linear(6, 4), dictionary_size=9, **options)


def test_bilinear_in_batch_contrast_is_curls_in_value_and_gradients() -> None:
    torch.manual_seed(0)
    bilinear = Bilinear(50).double()
    q = torch.randn(9, 50, dtype=torch.float64, requires_grad=True)
    k = torch.randn(9, 50, dtype=torch.float64)
    ours, _ = in_batch_info_nce(bilinear(q), k, temperature=1.0)
    naive = curl_loss(q, bilinear.weight_CC, k)
    torch.testing.assert_close(ours, naive)
    learnt = (q, bilinear.weight_CC)
    torch.testing.assert_close(torch.autograd.grad(ours, learnt), torch.autograd.grad(naive, learnt))


def test_the_bilinear_weight_starts_uniform_between_0_and_1() -> None:
    torch.manual_seed(0)
    weight = Bilinear(200).weight_CC
    assert 0 <= weight.min() < 0.01
    assert 0.99 < weight.max() < 1
    assert weight.mean().item() == pytest.approx(0.5, abs=0.01)


def test_dot_and_bilinear_models_leave_embeddings_as_long_as_they_are() -> None:
    x_q, x_k = torch.randn(2, 5, 6)
    for kind in ("dot", "bilinear"):
        made = model(similarity=kind)
        with torch.no_grad():
            q, k = made.encoder_q(x_q), made.encoder_k(x_k)
            q = q if made.similarity.bilinear is None else q @ made.similarity.bilinear.weight_CC
            naive = plain_info_nce(q, k, made.queue.keys_KC, 0.2)
            torch.testing.assert_close(moco_loss(made, x_q, x_k).loss, naive)


def test_the_bilinear_weight_learns_with_f_q_and_is_none_of_f_ks() -> None:
    made = model(similarity="bilinear")
    assert made.similarity.bilinear is not None
    before = made.similarity.bilinear.weight_CC.clone()
    step(made, *torch.randn(2, 5, 6), torch.optim.SGD(made.query_side.parameters(), lr=1.0))
    assert (made.similarity.bilinear.weight_CC != before).all()
    assert [name for name in made.state_dict() if "weight_CC" in name] == ["similarity.bilinear.weight_CC"]


def test_a_learned_temperature_has_the_plain_gradient() -> None:
    made = model(temperature=LearnedTemperature(0.3))
    x_q, x_k = torch.randn(2, 5, 6)
    log = made.similarity.temperature.log
    ours = moco_loss(made, x_q, x_k).loss
    torch.testing.assert_close(made.key(x_k).norm(dim=1), torch.ones(5))
    naive = clip_loss(made.encoder_q(x_q), made.key(x_k), made.queue.keys_KC, log)
    learnt = (log, made.encoder_q.weight)
    torch.testing.assert_close(ours, naive)
    torch.testing.assert_close(torch.autograd.grad(ours, learnt), torch.autograd.grad(naive, learnt))


@pytest.mark.parametrize(("rate", "reached"), [(1e3, 0.2), (-1e3, 0.4)])
def test_a_learned_temperature_stays_between_its_limits(rate: float, reached: float) -> None:
    made = model(temperature=LearnedTemperature(0.3, lowest=0.2, highest=0.4))
    x = torch.randn(5, 6)
    found = moco_loss(made, x, x)
    with torch.no_grad():
        made.similarity.temperature.log -= math.copysign(1.0, rate)
    made.after_step_(found.keys)
    assert made.similarity.temperature().item() == pytest.approx(reached)


def test_a_cosine_adds_nothing_to_the_state_and_is_the_query_encoder_alone() -> None:
    made = model()
    assert made.query_side is made.encoder_q
    assert not [name for name in made.state_dict() if name.startswith("similarity")]


def test_the_temperature_may_be_set_anew() -> None:
    made, (x_q, x_k) = model(), torch.randn(2, 5, 6)
    made.temperature = 0.7
    naive = plain_info_nce(made.query(x_q), made.key(x_k), made.queue.keys_KC, 0.7)
    torch.testing.assert_close(moco_loss(made, x_q, x_k).loss, naive)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bilinear(0), "embedding_dim=0: need at least 1"),
        (lambda: LearnedTemperature(0.9), "temperature 0.9 in 0.001..0.5: need"),
        (lambda: model(similarity="euclid"), "choose one of cosine, dot, bilinear"),
        (lambda: model(temperature=0.0), "temperature=0.0"),
        (lambda: EndToEnd(nn.Linear(6, 4), embedding_dim=4, temperature=LearnedTemperature()), "MoCo alone"),
        (
            lambda: MemoryBank(
                nn.Linear(6, 4),
                embedding_dim=4,
                temperature=0.1,
                similarity="dot",
                num_samples=9,
                dictionary_size=4,
                bank_momentum=0.5,
            ),
            "choose 'cosine'",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
