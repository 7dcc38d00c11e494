"""The optimisers of the papers, and what they are given."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tests.reference.lars import NaiveLars
from torch import nn

import moco
from moco.contrast import MoCo, MoCoV3, moco_v3_step
from moco.errors import ConfigError
from moco.recipes import configure
from moco.training.optimizer import make_optimizer

SMALL = {"batch_size": 256, "accelerator": "cpu"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 5), nn.LayerNorm(5))


def model(**options) -> MoCoV3:
    predictor = nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5, bias=False))
    return MoCoV3(network(), predictor, embedding_dim=5, key_momentum=0.9, temperature=1.0, **options)


@pytest.mark.parametrize("decay", [1e-6, 0.3, 0.0])
def test_lars_is_the_papers_step_by_step(decay):
    pytest.importorskip("timm")
    trained = model()
    optimizer = make_optimizer(trained, configure("v3", {**SMALL, "weight_decay": decay, "base_learning_rate": 0.7}))
    parameters = [*trained.encoder_q.parameters(), *trained.predictor.parameters()]
    nn.init.zeros_(parameters[0])  # a tensor without length takes the gradient as it is
    twin = NaiveLars([p.detach().numpy().copy() for p in parameters], momentum=0.9, decay=decay)
    for number in range(6):
        rate = 0.7 / (number + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter) * (number != 3)  # no gradient at all: nothing is divided by 0
        twin.step([p.grad.numpy() for p in parameters], rate)
        optimizer.step()
        for place, (ours, theirs) in enumerate(zip(parameters, twin.weights, strict=True)):
            np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=2e-5, atol=1e-6, err_msg=f"{number} {place}")


def test_lars_spares_biases_and_batchnorm():
    pytest.importorskip("timm")
    scaled, plain = make_optimizer(model(), configure("v3", SMALL)).param_groups
    assert {p.ndim for p in scaled["params"]} == {2, 4}
    assert {p.ndim for p in plain["params"]} == {1}
    assert (scaled["weight_decay"], plain["weight_decay"]) == (1e-6, 0.0)
    assert (scaled["momentum"], scaled["trust_coeff"], scaled["lr"]) == (0.9, 0.001, 0.6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_sgd_and_adamw_are_pytorchs_with_decay_on_everything(name):
    trained = model()
    optimizer = make_optimizer(trained, configure("v3", {**SMALL, "optimizer": name, "weight_decay": 0.1}))
    assert isinstance(optimizer, {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name])
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.1
    assert [p.data_ptr() for p in group["params"]] == [p.data_ptr() for p in trained.query_side.parameters()]


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_what_is_frozen_or_follows_is_not_given(name):
    pytest.importorskip("timm")
    trained = model()
    trained.encoder_q[0].requires_grad_(False)
    optimizer = make_optimizer(trained, configure("v3", {**SMALL, "optimizer": name}))
    given = {p.data_ptr() for group in optimizer.param_groups for p in group["params"]}
    assert given == {p.data_ptr() for p in trained.parameters() if p.requires_grad}
    before = trained.encoder_q[0].weight.clone()
    moco_v3_step(trained, torch.randn(4, 2, 5, 5), torch.randn(4, 2, 5, 5), optimizer)
    assert torch.equal(trained.encoder_q[0].weight, before)
    assert torch.equal(trained.encoder_k[0].weight, before)


def test_other_mechanisms_take_them_too():
    pytest.importorskip("timm")
    queue = MoCo(network(), dictionary_size=8, embedding_dim=5, key_momentum=0.9, temperature=0.2)
    assert len(make_optimizer(queue, configure("v2", {**SMALL, "optimizer": "lars"})).param_groups) == 2


def test_without_timm_lars_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm.optim.lars", None)  # makes its import fail
    images = np.zeros((8, 16, 16, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"optimizer='lars' needs timm: pip install 'moco-contrast\[timm\]'"):
        moco.pretrain(images, out=tmp_path / "run", recipe="v3", batch_size=4, steps=1)
    assert not (tmp_path / "run").exists()


def test_options_of_another_optimiser_are_refused():
    with pytest.raises(ConfigError, match="sgd_momentum=0.5 would change nothing"):
        configure("v3-vit", {"sgd_momentum": 0.5})
    assert configure("v3", {"sgd_momentum": 0.5}).sgd_momentum == 0.5
