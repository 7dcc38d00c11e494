"""Laws of the memory bank. N: samples   K: negatives   M: samples in the bank   C: embedding width"""

from __future__ import annotations

import copy
import math
from collections import Counter

import pytest
import torch
from torch import nn

from moco.contrast import Bank, MemoryBank, memory_bank_step
from moco.contrast.dictionary import rows_of
from tests.contrast.test_algorithm_laws import normalizing, plain
from tests.reference.mechanisms import naive_bank_update, naive_memory_bank

WIDTH, SAMPLES = 5, 20


def build(encoder: nn.Module, **options: object) -> MemoryBank:
    settings: dict[str, object] = {"num_samples": SAMPLES, "dictionary_size": 7, "embedding_dim": WIDTH}
    return MemoryBank(encoder, **{**settings, "bank_momentum": 0.5, "temperature": 0.2, **options})  # type: ignore[arg-type]


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [1, 7, SAMPLES])
def test_steps_equal_the_naive_form(size: int) -> None:
    model = build(plain().double(), dictionary_size=size).double()
    naive, bank = copy.deepcopy(model.encoder_q), model.bank.embeddings_MC.clone()
    optimizer, naive_optimizer = sgd(model.encoder_q), sgd(naive)
    for _ in range(5):
        x, indices = torch.randn(6, 6, dtype=torch.float64), torch.randperm(SAMPLES)[:6]
        state = torch.get_rng_state()
        drawn = model.bank.draw(size).tolist()
        torch.set_rng_state(state)
        loss, _ = memory_bank_step(model, x, indices, optimizer)
        expected = naive_memory_bank(naive, x, indices.tolist(), drawn, bank, 0.2)
        queries = nn.functional.normalize(naive(x), dim=1).detach()
        naive_optimizer.zero_grad()
        expected.backward()
        naive_optimizer.step()
        bank = naive_bank_update(bank, indices.tolist(), queries, 0.5)
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(model.encoder_q.state_dict(), naive.state_dict())
        torch.testing.assert_close(model.bank.embeddings_MC, bank)


def test_only_the_rows_of_the_batch_change_and_stay_of_unit_length() -> None:
    model = build(plain())
    before, indices = model.bank.embeddings_MC.clone(), torch.tensor([3, 17, 0])
    memory_bank_step(model, torch.randn(3, 6), indices, sgd(model.encoder_q))
    changed = (model.bank.embeddings_MC != before).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [0, 3, 17]
    torch.testing.assert_close(model.bank.embeddings_MC.norm(dim=1), torch.ones(SAMPLES))


def test_a_sample_that_comes_twice_is_moved_by_both_queries() -> None:
    bank, q = Bank(4, 3), nn.functional.normalize(torch.randn(2, 3), dim=1)
    expected = nn.functional.normalize(0.5 * bank.embeddings_MC[2] + 0.5 * (q[0] + q[1]), dim=0)
    bank.update_(torch.tensor([2, 2]), q, bank_momentum=0.5)
    torch.testing.assert_close(bank.embeddings_MC[2], expected)


def test_a_query_that_is_no_number_changes_nothing() -> None:
    bank, q = Bank(4, 3), nn.functional.normalize(torch.randn(2, 3), dim=1)
    before = bank.embeddings_MC.clone()
    q[1, 0] = math.nan
    bank.update_(torch.tensor([2, 1]), q, bank_momentum=0.5)
    torch.testing.assert_close(bank.embeddings_MC[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.allclose(bank.embeddings_MC[2], before[2])


def test_negatives_are_different_samples_uniform_and_decided_by_the_seed() -> None:
    bank = Bank(SAMPLES, 3)
    torch.manual_seed(4)
    first = bank.draw(7)
    other = bank.draw(7)
    torch.manual_seed(4)
    assert torch.equal(bank.draw(7), first)
    assert not torch.equal(first, other)
    counts = Counter(number for _ in range(2000) for number in bank.draw(7).tolist())
    assert bank.draw(7).unique().numel() == 7
    assert set(counts) == set(range(SAMPLES))
    assert all(abs(count - 700) < 5 * (700 * 13 / 20) ** 0.5 for count in counts.values())


def test_rows_of_finds_what_was_drawn() -> None:
    drawn, indices = torch.tensor([1, 4, 9]), torch.tensor([0, 1, 4, 5, 9, 12])
    assert rows_of(indices, drawn).tolist() == [-1, 0, 1, -1, 2, -1]


def test_one_view_is_encoded_once_and_the_bank_takes_no_gradient() -> None:
    model, called = build(normalizing()), []
    model.encoder_q.register_forward_hook(lambda *_: called.append(1))
    memory_bank_step(model, torch.randn(8, 6), torch.arange(8), sgd(model.encoder_q))
    assert called == [1]
    assert not model.bank.embeddings_MC.requires_grad
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder_q", "bank"}
    assert all(parameter.grad is not None for parameter in model.encoder_q.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dictionary_size": SAMPLES + 1}, f"dictionary_size=21 with {SAMPLES} samples: need 1 to {SAMPLES}"),
        ({"dictionary_size": 0}, "dictionary_size=0"),
        ({"bank_momentum": 1.1}, r"bank_momentum=1\.1: need a value from 0"),
        ({"batchnorm": "shuffle"}, "encodes no keys: choose 'auto'"),
        ({"batchnorm": "average"}, "encodes no keys: choose 'auto'"),
        ({"temperature": 0.0}, "temperature=0.0: need a value above 0"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(normalizing(), **options)


def test_it_learns_to_tell_samples_apart() -> None:
    """Without learning the loss stays at 2.0: stored embeddings come near their own queries anyway."""
    model = build(nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, WIDTH)), dictionary_size=SAMPLES)
    samples, optimizer, losses = torch.randn(SAMPLES, 6), sgd(model.encoder_q), []
    for _ in range(300):
        indices = torch.randperm(SAMPLES)[:10]
        x = samples[indices] + 0.1 * torch.randn(10, 6)
        losses.append(memory_bank_step(model, x, indices, optimizer)[0].item())
    assert sum(losses[-30:]) / 30 < 1.0
