"""BatchNorm in fine-tuning: all layers learn, and before the test their statistics are those of the training images."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from moco.encoder import SmallResNet
from moco.errors import ArchitectureError, DataError
from moco.transfer.networks.normalization import precise_batchnorm_, tune_batchnorm_
from tests.reference.precise_batchnorm import population_statistics


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(size, 3, 16, 16, generator=generator) for size in (4, 2, 7)]


def test_statistics_are_those_of_all_values_together(batches):
    model = SmallResNet(width=4)
    expected = population_statistics(model, batches)
    assert precise_batchnorm_(model, batches) == 3
    for name, (mean, variance) in expected.items():
        layer = model.get_submodule(name)
        torch.testing.assert_close(layer.running_mean, mean.float())
        torch.testing.assert_close(layer.running_var, variance.float())


def test_nothing_but_the_statistics_changes(batches):
    model = SmallResNet(width=4).eval()
    model.layer1.train()
    before, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    precise_batchnorm_(model, batches)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "running" in name}
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_only_the_first_batches_are_read(batches):
    model, other, unread = SmallResNet(width=4), None, iter(batches)
    other = copy.deepcopy(model)
    assert precise_batchnorm_(model, unread, n=2) == 2
    assert len(list(unread)) == 1
    precise_batchnorm_(other, batches[:2])
    assert torch.equal(model.bn1.running_var, other.bn1.running_var)


def test_a_layer_without_values_keeps_its_statistics(batches):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.unseen = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.seen(x)

    model = Unused()
    precise_batchnorm_(model, batches)
    assert torch.equal(model.unseen.running_mean, torch.zeros(3))
    assert model.seen.running_mean.mean() == pytest.approx(3, abs=0.1)


def test_no_batch_is_refused():
    with pytest.raises(DataError):
        precise_batchnorm_(SmallResNet(width=4), [])


def test_frozen_layers_are_refused_and_all_others_learn():
    frozen = torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    with pytest.raises(ArchitectureError, match="bn1"):
        tune_batchnorm_(frozen)
    model = SmallResNet(width=4).requires_grad_(False)
    names = list(model.state_dict())
    model = tune_batchnorm_(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == names
