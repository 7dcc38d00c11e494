"""Laws of the end-to-end mechanism. N: samples   C: embedding width"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from moco.contrast import EndToEnd, end_to_end_step
from moco.contrast.loss import in_batch_info_nce
from tests.contrast.test_algorithm_laws import normalizing, plain
from tests.reference.mechanisms import naive_end_to_end

WIDTH = 5


def build(encoder: nn.Module, **options: object) -> EndToEnd:
    return EndToEnd(encoder, **{"embedding_dim": WIDTH, "temperature": 0.2, **options})  # type: ignore[arg-type]


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_steps_equal_the_naive_form() -> None:
    model = build(plain().double())
    naive = copy.deepcopy(model.encoder_q)
    optimizer, naive_optimizer = sgd(model.encoder_q), sgd(naive)
    for _ in range(4):
        x_q, x_k = (torch.randn(6, 6, dtype=torch.float64) for _ in range(2))
        loss, _ = end_to_end_step(model, x_q, x_k, optimizer)
        expected = naive_end_to_end(naive, x_q, x_k, 0.2)
        naive_optimizer.zero_grad()
        expected.backward()
        naive_optimizer.step()
        assert not loss.requires_grad
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(model.encoder_q.state_dict(), naive.state_dict())


@pytest.mark.parametrize("batchnorm", ["auto", "none"])
def test_the_gradient_reaches_both_views(batchnorm: str) -> None:
    model = build(normalizing(), batchnorm=batchnorm)
    views = [torch.randn(16, 6, requires_grad=True) for _ in range(2)]
    loss, _ = in_batch_info_nce(model.query(views[0]), model.key(views[1]), temperature=0.2)
    for gradient in torch.autograd.grad(loss, views):
        assert (gradient.abs().sum(dim=1) > 0).all()


def test_a_querys_batchnorm_company_is_not_its_keys_and_keys_keep_their_order() -> None:
    seen: list[list[int]] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.BatchNorm1d(6), nn.Linear(6, WIDTH)
            self.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 0].int().tolist()))

        def forward(self, x: Tensor) -> Tensor:
            embeddings: Tensor = self.linear(x)
            self.norm(x)
            return embeddings

    encoder = Watching()
    hooks = encoder.norm._forward_pre_hooks.copy()
    model = build(encoder, split_groups=4)
    model.encoder_q.norm._forward_pre_hooks.update(hooks)  # type: ignore[operator, union-attr]
    x = torch.randn(16, 6)
    x[:, 0] = torch.arange(16)
    with torch.no_grad():
        torch.testing.assert_close(model.query(x), model.key(x))
    query_groups, key_groups = ([set(batch[g * 4 : g * 4 + 4]) for g in range(4)] for batch in seen)
    assert query_groups[1] == {1, 5, 9, 13}
    assert sorted(set().union(*key_groups)) == list(range(16))
    assert not any(group in query_groups for group in key_groups)


def test_the_accuracy_is_the_newest_steps() -> None:
    model, x = build(plain()), torch.randn(8, 6)
    assert end_to_end_step(model, x, x, sgd(model.encoder_q))[1].item() == 1  # a key that equals its query is nearest


def test_keys_go_through_the_querys_wrapper() -> None:
    model = build(plain())
    called = []

    def wrapper(x: Tensor) -> Tensor:
        called.append(len(x))
        embeddings: Tensor = model.encoder_q(x)
        return embeddings

    model.run_encoders_with(query=wrapper)
    end_to_end_step(model, torch.randn(4, 6), torch.randn(4, 6), sgd(model.encoder_q))
    assert called == [4, 4]


def test_it_has_one_encoder_and_no_dictionary() -> None:
    assert all(name.startswith("encoder_q.") for name in build(normalizing()).state_dict())


def test_a_batch_of_one_and_an_averaged_key_encoder_are_refused() -> None:
    model = build(plain())
    with pytest.raises(ValueError, match="need at least 2 samples"):
        end_to_end_step(model, torch.randn(1, 6), torch.randn(1, 6), sgd(model.encoder_q))
    with pytest.raises(ValueError, match="no key encoder to average"):
        build(normalizing(), batchnorm="average")
