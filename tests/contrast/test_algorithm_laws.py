"""Laws of one step of Algorithm 1, plain and symmetric. N: samples   C: embedding width   K: keys in the dictionary"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from moco.contrast import MoCo, info_nce, moco_step, symmetric_moco_step

Step = Callable[..., Tensor]
STEPS = pytest.mark.parametrize("step", [moco_step, symmetric_moco_step])
WIDTH = 5


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, WIDTH))


def normalizing() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, WIDTH))


def build(encoder: nn.Module, **options: object) -> MoCo:
    settings: dict[str, object] = {"dictionary_size": 11, "embedding_dim": WIDTH, "key_momentum": 0.9}
    return MoCo(encoder, **{**settings, "temperature": 0.2, **options})  # type: ignore[arg-type]


def sgd(model: MoCo) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.encoder_q.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
def test_key_encoder_starts_equal_to_the_query_encoder_head_included(batchnorm: str) -> None:
    encoder = normalizing()
    own = values(encoder)
    model = build(encoder, batchnorm=batchnorm)
    assert "3.weight" in own  # the head
    assert same(values(model.encoder_q), own)
    assert same(values(model.encoder_k), own)
    model.eval()
    x = torch.randn(4, 6)
    assert torch.equal(model.query(x), model.key(x))


@STEPS
def test_key_encoder_gets_no_gradient(step: Step) -> None:
    model = build(plain())
    assert not model.key(torch.randn(4, 6, requires_grad=True)).requires_grad
    step(model, torch.randn(4, 6), torch.randn(4, 6), sgd(model))
    assert not any(p.requires_grad or p.grad is not None for p in model.encoder_k.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder_q.parameters())
    assert not model.queue.keys_KC.requires_grad


@STEPS
def test_an_optimizer_over_the_whole_model_does_not_reach_the_key_encoder(step: Step) -> None:
    """Weight decay and momentum would move any parameter that has a gradient, be it zero."""
    model = build(plain(), key_momentum=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before_q, before_k = values(model.encoder_q), values(model.encoder_k)
    for _ in range(3):
        step(model, torch.randn(4, 6), torch.randn(4, 6), optimizer)
    assert same(values(model.encoder_k), before_k)
    assert not same(values(model.encoder_q), before_q)


@STEPS
def test_key_momentum_zero_copies_the_query_encoder(step: Step) -> None:
    model = build(plain(), key_momentum=0.0)
    before = values(model.encoder_q)
    step(model, torch.randn(4, 6), torch.randn(4, 6), sgd(model))
    assert same(values(model.encoder_k), values(model.encoder_q))
    assert not same(values(model.encoder_q), before)


@STEPS
@pytest.mark.parametrize("size", [3, 8, 11])
def test_the_loss_is_over_the_keys_that_were_there_before(step: Step, size: int) -> None:
    model = build(plain(), dictionary_size=size)
    optimizer = sgd(model)
    for _ in range(3):
        x_1, x_2, keys = torch.randn(4, 6), torch.randn(4, 6), model.queue.keys_KC.clone()
        with torch.no_grad():
            expected = info_nce(model.query(x_1), model.key(x_2), keys, temperature=0.2)
            if step is symmetric_moco_step:
                expected += info_nce(model.query(x_2), model.key(x_1), keys, temperature=0.2)
        loss, _ = step(model, x_1, x_2, optimizer)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, expected)
        assert not torch.equal(model.queue.keys_KC, keys)


@STEPS
def test_nothing_moves_before_the_backward(step: Step) -> None:
    model = build(plain())
    before = values(model)
    seen = []

    def backward(loss: Tensor) -> None:
        seen.append(same(values(model), before))
        loss.backward()
        seen.append(same(values(model), before))

    step(model, torch.randn(4, 6), torch.randn(4, 6), sgd(model), backward=backward)
    assert seen == [True, True]
    assert not same(values(model), before)


@STEPS
def test_the_stated_backward_is_the_one_used(step: Step) -> None:
    model = build(plain())
    doubled = copy.deepcopy(model)
    x_1, x_2 = torch.randn(4, 6), torch.randn(4, 6)
    loss, _ = step(model, x_1, x_2, sgd(model))
    other, _ = step(doubled, x_1, x_2, sgd(doubled), backward=lambda loss: (2 * loss).backward())
    assert torch.equal(loss, other)
    for p, q in zip(model.encoder_q.parameters(), doubled.encoder_q.parameters(), strict=True):
        torch.testing.assert_close(2 * p.grad, q.grad)  # type: ignore[operator]


@STEPS
def test_gradients_left_over_from_elsewhere_do_not_count(step: Step) -> None:
    model = build(plain())
    other = copy.deepcopy(model)
    other.query(torch.randn(4, 6)).sum().backward()
    x_1, x_2 = torch.randn(4, 6), torch.randn(4, 6)
    for each in (model, other):
        step(each, x_1, x_2, sgd(each))
    assert same(values(model), values(other))


def test_a_step_enqueues_the_keys_of_the_second_view_in_order() -> None:
    model = build(plain())
    before = model.queue.keys_KC.clone()
    x_q, x_k = torch.randn(4, 6), torch.randn(4, 6)
    expected = model.key(x_k)
    moco_step(model, x_q, x_k, sgd(model))
    assert torch.equal(model.queue.keys_KC, torch.cat([expected, before[4:]]))
    assert int(model.queue.pointer) == 4


def test_a_symmetric_step_enqueues_both_views_keys_once_in_view_order() -> None:
    model = build(plain())
    before = model.queue.keys_KC.clone()
    x_1, x_2 = torch.randn(4, 6), torch.randn(4, 6)
    expected = torch.cat([model.key(x_1), model.key(x_2)])
    symmetric_moco_step(model, x_1, x_2, sgd(model))
    assert torch.equal(model.queue.keys_KC, torch.cat([expected, before[8:]]))
    assert int(model.queue.pointer) == 8


@STEPS
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_loss_is_log_one_plus_k_where_all_logits_are_equal(step: Step, size: int) -> None:
    model = build(plain(), dictionary_size=size)
    for encoder in (model.encoder_q, model.encoder_k):
        nn.init.zeros_(encoder[2].weight)  # every sample has the same embedding
        nn.init.ones_(encoder[2].bias)
    model.queue.keys_KC.fill_(WIDTH**-0.5)
    losses = 2 if step is symmetric_moco_step else 1
    loss, _ = step(model, torch.randn(4, 6), torch.randn(4, 6), sgd(model))
    assert loss.item() == pytest.approx(losses * math.log(1 + size), rel=1e-5)


@STEPS
def test_under_autocast_the_queue_and_the_loss_stay_float32(step: Step) -> None:
    model = build(normalizing(), batchnorm="none")
    exact = copy.deepcopy(model)
    x_1, x_2 = torch.randn(8, 6), torch.randn(8, 6)
    widths: list[torch.dtype] = []
    model.encoder_q[3].register_forward_hook(lambda _module, _input, output: widths.append(output.dtype))
    expected, _ = step(exact, x_1, x_2, sgd(exact))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = step(model, x_1, x_2, sgd(model))
        for embeddings in (model.query(x_1), model.key(x_2)):
            torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(8), rtol=1e-6, atol=1e-6)
    assert set(widths) == {torch.bfloat16}
    assert loss.dtype == model.queue.keys_KC.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(model.queue.keys_KC, exact.queue.keys_KC, rtol=2e-2, atol=2e-2)
    assert not torch.equal(model.queue.keys_KC, exact.queue.keys_KC)
