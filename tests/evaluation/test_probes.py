"""The linear probes and supervised training: what they learn, what they must not touch, what repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from moco.encoder import build_backbone
from moco.errors import DataError, RunError
from moco.evaluation import finetune
from moco.evaluation.figures import average_precision
from moco.evaluation.linear import changed_tensors, fresh_layer, linear_probe
from moco.evaluation.logistic import PENALTIES, fit_logistic


def clusters(rows: int, classes: int, width: int = 16, spread: float = 1.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = 3 * torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[labels] + spread * torch.randn(rows, width, generator=generator), labels


def test_the_fast_probe_finds_the_minimum_of_its_objective():
    features, labels = clusters(120, 3, spread=4.0)
    probe = fit_logistic(features, labels, num_classes=3, seed=0, penalties=[0.1])
    x = (features.double() - features.double().mean(0)) / features.double().std(0, unbiased=False)
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    loss = nn.functional.cross_entropy(x @ weight.T + bias, labels) + 0.1 / 2 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 2e-3
    assert bias.grad.abs().max() < 2e-3
    assert probe.converged


def test_the_penalty_is_chosen_where_it_matters():
    features, labels = clusters(80, 2, width=200, spread=8.0)
    probe = fit_logistic(features, labels, num_classes=2, seed=0)
    assert probe.penalty in PENALTIES
    assert probe.penalty > min(PENALTIES), "80 rows of width 200: hardly any penalty overfits"


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_fast_probe_generalises_whatever_the_scale_of_the_features(classes):
    features, labels = clusters(300, classes)
    asked, truth = clusters(200, classes, seed=1)
    scale = torch.logspace(-4, 4, 16)
    probe = fit_logistic(features * scale + 100, labels, num_classes=classes, seed=0)
    assert (probe(asked * scale + 100).argmax(1) == truth).float().mean() > 0.97


def test_dead_features_and_absent_classes_do_no_harm():
    features, labels = clusters(100, 3)
    features = torch.cat([features, torch.full((100, 2), 7.0)], dim=1)
    probe = fit_logistic(features, labels * 2, num_classes=6, seed=0)  # classes 1, 3 and 5 have no image
    assert set(probe(features).argmax(1).tolist()) == {0, 2, 4}


def test_several_labels_are_as_many_questions():
    features, labels = clusters(300, 4)
    targets = torch.stack([labels < 2, labels % 2 == 0, labels == 3, torch.zeros(300, dtype=torch.bool)], dim=1)
    probe = fit_logistic(features, targets.float(), num_classes=4, seed=0)
    assert average_precision(probe(features), targets)[:3].min() > 0.98
    assert (probe(features)[:, 3] < -20).all(), "a class that no image has"


@pytest.mark.parametrize(
    ("features", "message"), [(torch.full((6, 2), torch.nan), "NaN"), (torch.ones(3, 2), "at least 4")]
)
def test_what_the_fast_probe_cannot_fit_is_refused(features, message):
    with pytest.raises(DataError, match=message):
        fit_logistic(features, torch.arange(len(features)) % 2, num_classes=2, seed=0)


def images_of_two_kinds(count: int = 64):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 3, 16, 16, generator=generator) + (labels * 2.0 - 1)[:, None, None, None]
    return images, labels


def passes(images, labels, batch=16):
    seen = []

    def one_pass(epoch):
        seen.append(epoch)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        yield from ((images[part], labels[part]) for part in order.split(batch))

    return one_pass, seen


@pytest.fixture
def backbone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone("resnet_tiny", image_size=16).module


def test_the_papers_probe_learns_and_leaves_the_backbone_bit_identical(backbone):
    images, labels = images_of_two_kinds()
    one_pass, seen = passes(images, labels)
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    (layer,) = linear_probe(backbone, one_pass, feature_dim=128, num_classes=2, epochs=4, learning_rates=[1.0], seed=0)
    assert changed_tensors(before, backbone.state_dict()) == []
    assert backbone.training
    assert seen == [0, 1, 2, 3]
    with torch.no_grad():
        assert (layer(backbone.eval()(images)).argmax(1) == labels).float().mean() > 0.9


def test_each_learning_rate_of_a_sweep_is_what_it_would_be_alone(backbone):
    images, labels = images_of_two_kinds()
    options = {"feature_dim": 128, "num_classes": 2, "epochs": 3, "seed": 0}
    swept = linear_probe(backbone, passes(images, labels)[0], learning_rates=[0.3, 3.0], **options)
    for rate, layer in zip([0.3, 3.0], swept, strict=True):
        (alone,) = linear_probe(backbone, passes(images, labels)[0], learning_rates=[rate], **options)
        assert torch.equal(alone.weight, layer.weight)
    assert not torch.equal(swept[0].weight, swept[1].weight)


def test_the_learning_rate_falls_at_60_and_80_percent(backbone, monkeypatch):
    images, labels = images_of_two_kinds(8)
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    options = {"feature_dim": 128, "num_classes": 2, "epochs": 10, "learning_rates": [30.0], "seed": 0}
    linear_probe(backbone, passes(images, labels)[0], **options)
    assert rates == pytest.approx([30.0] * 6 + [3.0] * 2 + [0.3] * 2)


def test_a_backbone_that_changes_is_found_out(backbone):
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = backbone
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return self.inner(x)

    images, labels = images_of_two_kinds(8)
    options = {"feature_dim": 128, "num_classes": 2, "epochs": 1, "learning_rates": [1.0], "seed": 0}
    with pytest.raises(RunError, match="changed the backbone \\(count\\)"):
        linear_probe(Restless(), passes(images, labels)[0], **options)


def test_a_single_bit_is_a_change():
    before = {"w": torch.tensor([0.0, 1.0]), "n": torch.tensor(3)}
    assert changed_tensors(before, {"w": torch.tensor([0.0, 1.0]), "n": torch.tensor(3)}) == []
    assert changed_tensors(before, {"w": torch.tensor([-0.0, 1.0]), "n": torch.tensor(3)}) == ["w"]
    assert changed_tensors(before, {"w": torch.tensor([0.0, 1.0])}) == ["n"]
    nan = {"w": torch.tensor([torch.nan])}
    assert changed_tensors(nan, {"w": torch.tensor([torch.nan])}) == []


def test_fresh_layers_are_the_papers():
    layer = fresh_layer(2000, 50, seed=1)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not layer.bias.any()
    assert torch.equal(layer.weight, fresh_layer(2000, 50, seed=1).weight)
    assert not torch.equal(layer.weight, fresh_layer(2000, 50, seed=2).weight)


@pytest.mark.parametrize("several", [False, True])
def test_supervised_training_learns_and_repeats(backbone, several):
    images, labels = images_of_two_kinds()
    targets = torch.stack([labels == 0, labels == 1], dim=1).float() if several else labels
    outcomes = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = finetune.classifier(build_backbone("resnet_tiny", image_size=16).module, 128, 2, seed=0)
        finetune.train_classifier(network, passes(images, targets)[0], epochs=4, steps_per_epoch=4, learning_rate=0.05)
        with torch.no_grad():
            outcomes.append(network(images))
    assert torch.equal(*outcomes)
    assert not network.training
    assert (outcomes[0].argmax(1) == labels).float().mean() > 0.9


def test_a_training_that_explodes_is_said(backbone):
    images, labels = images_of_two_kinds(32)
    network = finetune.classifier(backbone, 128, 2, seed=0)
    with pytest.raises(RunError, match="lower learning_rate"):
        finetune.train_classifier(network, passes(images, labels)[0], epochs=30, steps_per_epoch=2, learning_rate=1e20)


def test_the_schedule_warms_up_and_ends_near_zero():
    rates = [finetune._factor(step, 200) for step in range(200)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_parts_are_balanced_nested_and_seeded(fraction):
    labels = np.repeat([0, 1, 2, 3], [400, 300, 200, 100])
    part = finetune.balanced_part(labels, fraction, seed=0)
    each = round(fraction * 1000 / 4)
    assert np.bincount(labels[part]).tolist() == [min(each, size) for size in (400, 300, 200, 100)]
    assert np.array_equal(part, finetune.balanced_part(labels, fraction, seed=0))
    assert not np.array_equal(part, finetune.balanced_part(labels, fraction, seed=1))
    assert set(part) <= set(finetune.balanced_part(labels, min(1.0, 2 * fraction), seed=0))
    assert len(finetune.balanced_part(labels, 1.0, seed=0)) == 1000


def test_a_tiny_share_still_has_every_class():
    assert len(finetune.balanced_part(np.arange(50) % 10, 0.01, seed=0)) == 10
