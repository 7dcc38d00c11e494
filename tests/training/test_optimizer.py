"""The optimisers of the papers, and what they are given."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tests.reference.lars import NaiveLars
from tests.reference.muon import NaiveMuon
from torch import nn

import moco
from moco.contrast import MoCo, MoCoV3, moco_v3_step
from moco.errors import ConfigError
from moco.recipes import configure
from moco.training.encoder import build_checked_encoder
from moco.training.mechanism import build_model
from moco.training.muon import Muon, orthogonalized
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


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw", "muon"])
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


def test_muon_steps_matrices_by_its_twin_the_input_layer_by_sgd_and_all_others_by_adamw():
    """Filters as matrices; a convolution by channel and embeddings of positions are none."""
    torch.manual_seed(0)
    shapes = [(8, 3, 3, 3), (6, 4, 3, 3), (5, 12), (12, 5), (6,), (6, 1, 3, 3), (1, 7, 4)]
    ours, twins = ([torch.randn(shape).requires_grad_() for shape in shapes] for _ in range(2))
    for one, other in zip(ours, twins, strict=True):
        other.data.copy_(one.data)
    ours[1].data = ours[1].data.to(memory_format=torch.channels_last)
    optimizer = Muon(ours, lr=0.1, weight_decay=0.2, momentum=0.9, input_layer=ours[0])
    sgd = torch.optim.SGD(twins[:1], lr=3.0, momentum=0.9)  # its own weight decay is a part of the gradient
    adamw = torch.optim.AdamW(twins[4:], lr=0.1, weight_decay=0.2)
    naive = [NaiveMuon(twin.detach().double().numpy(), momentum=0.9, decay=0.2) for twin in twins[1:4]]
    for number in range(5):
        gradients = [torch.randn(shape) for shape in shapes]
        for one, other, gradient in zip(ours, twins, gradients, strict=True):
            one.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.param_groups[0]["lr"] = adamw.param_groups[0]["lr"] = rate = 0.1 / (number + 1)
        sgd.param_groups[0]["lr"] = 30 * rate
        twins[0].data.mul_(1 - 0.2 * rate)
        for each in (optimizer, sgd, adamw):
            each.step()
        for twin, gradient in zip(naive, gradients[1:], strict=False):
            twin.step(gradient.double().numpy(), rate)
        expected = [twins[0], *(torch.from_numpy(twin.weight) for twin in naive), *twins[4:]]
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "options", "expected"),
    [
        ("resnet_tiny", {}, "backbone.conv1.weight"),
        ("resnet_tiny", {"channels": 1}, "backbone.conv1.weight"),
        ("timm/vit_tiny_patch16_224", {}, "backbone.patch_embed.proj.weight"),
    ],
)
def test_the_input_layer_of_muon_is_the_one_that_reads_the_images(backbone, options, expected):
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    sizes = {"image_size": 32, "dictionary_size": 8, "batch_size": 8, "accelerator": "cpu"}
    config = configure("v2", {"optimizer": "muon", "backbone": backbone, **sizes, **options})
    built = build_model(build_checked_encoder(config), config, images=8)
    optimizer = make_optimizer(built, config)
    names = {id(parameter): name for name, parameter in built.encoder_q.named_parameters()}
    assert names[id(optimizer.input_layer)] == expected


@pytest.mark.parametrize("shape", [(64, 300), (300, 64), (32, 32), (7, 2)])
def test_orthogonalized_keeps_singular_vectors_and_makes_their_values_about_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.mT @ orthogonalized(matrix) @ right.mT
    assert (values - values.diagonal().diag()).abs().max() < 2e-3
    assert 0.6 < values.diagonal().min() <= values.diagonal().max() < 1.3
    torch.testing.assert_close(orthogonalized(1000 * matrix), orthogonalized(matrix), rtol=0, atol=1e-4)
    assert torch.equal(orthogonalized(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(64, 300), (300, 64), (96, 96)])
@pytest.mark.parametrize("decay", [0.0, 0.1, 10.0])
def test_orthogonalized_in_bf16_is_near_that_in_fp32_for_singular_values_of_any_spread(shape, decay):
    """Where most of them are next to nothing, rounding must not make steps of them that have no end."""
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = left @ torch.exp(-decay * torch.arange(min(shape))).diag() @ right
    there, here = (orthogonalized(matrix, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert here.dtype == torch.float32
    assert torch.linalg.matrix_norm(here - there, 2) < 0.35
    assert torch.linalg.matrix_norm(here, 2) < 1.3


@pytest.mark.parametrize(("precision", "expected"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_muon_multiplies_in_the_precision_of_the_run(precision, expected):
    optimizer = make_optimizer(model(), configure("v3", {**SMALL, "optimizer": "muon", "precision": precision}))
    assert optimizer.dtype == expected


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_muon_keeps_lengths_but_for_weight_decay_and_moves_what_begins_at_zero(decay):
    torch.manual_seed(0)
    weight, zero = torch.randn(8, 3, 3, 3).requires_grad_(), torch.zeros(4, 5).requires_grad_()
    before, lengths = weight.detach().clone(), []
    optimizer = Muon([weight, zero], lr=0.02, weight_decay=decay, momentum=0.9)
    for _ in range(50):
        for parameter in (weight, zero):
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        lengths.append(zero.norm().item())
    left = 1 - 0.02 * decay
    assert weight.norm().item() == pytest.approx(left**50 * before.norm().item(), rel=1e-4)
    assert (weight - before).norm() > 0.1
    assert lengths[0] > 0
    assert lengths[-1] == pytest.approx(left**49 * lengths[0], rel=1e-4)
