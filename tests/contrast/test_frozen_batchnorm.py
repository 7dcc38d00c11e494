"""Laws of frozen BatchNorm: trained weights keep their statistics, and no sample has any company."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moco.contrast import EndToEnd, MemoryBank, MoCo, end_to_end_step, memory_bank_step, moco_step
from tests.contrast.test_algorithm_laws import WIDTH, build, same, sgd, values


def trained() -> nn.Sequential:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, WIDTH))
    for _ in range(3):
        encoder(3 * torch.randn(32, 6) + 1)
    return encoder


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in values(module).items() if "running" in name or "num_batches" in name}


def test_statistics_stay_and_the_affine_weights_learn() -> None:
    model = build(trained(), batchnorm="frozen").train()
    before, affine = statistics(model), values(model.encoder_q)["1.weight"]
    optimizer = sgd(model)
    for _ in range(3):
        moco_step(model, torch.randn(4, 6), torch.randn(4, 6), optimizer)
    assert before
    assert same(statistics(model), before)
    assert not torch.equal(values(model.encoder_q)["1.weight"], affine)
    assert not torch.equal(values(model.encoder_k)["1.weight"], affine), "f_k follows"


def test_an_embedding_depends_on_its_own_sample_alone() -> None:
    model = build(trained(), batchnorm="frozen").train()
    x = torch.randn(7, 6)
    for encode in (model.query, model.key):
        together = encode(x)
        alone = torch.cat([encode(sample[None]) for sample in x])
        assert torch.allclose(together, alone, atol=1e-6)
        assert torch.equal(encode(x), model.eval() and encode(x)), "training or not"
        model.train()


@pytest.mark.parametrize("mode", [True, False])
def test_train_keeps_them_frozen(mode: bool) -> None:
    model = build(trained(), batchnorm="frozen").train(mode)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert [layer.training for layer in layers] == [False, False]
    assert model.encoder_q.training is mode


def test_the_other_mechanisms_take_it_too() -> None:
    shared = {"embedding_dim": WIDTH, "temperature": 0.2, "batchnorm": "frozen"}
    views = torch.randn(4, 6), torch.randn(4, 6)
    end_to_end = EndToEnd(trained(), **shared)
    before = statistics(end_to_end)
    end_to_end_step(end_to_end, *views, sgd(end_to_end))
    assert same(statistics(end_to_end), before)
    bank = MemoryBank(trained(), num_samples=9, dictionary_size=5, bank_momentum=0.5, **shared)
    before = statistics(bank)
    memory_bank_step(bank, views[0], torch.arange(4), sgd(bank))
    assert same(statistics(bank), before)


def test_a_layer_without_statistics_is_refused() -> None:
    encoder = nn.Sequential(nn.Linear(6, WIDTH), nn.BatchNorm1d(WIDTH, track_running_stats=False))
    with pytest.raises(ValueError, match="'frozen': encoder_q.1 has no running statistics"):
        MoCo(encoder, dictionary_size=5, embedding_dim=WIDTH, key_momentum=0.9, temperature=0.2, batchnorm="frozen")
