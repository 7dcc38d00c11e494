"""BatchNorm over all ranks: what it is on one process; `tests/distributed` has the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from moco.contrast.joint_batchnorm import JointBatchNorm, join_batchnorm


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(36, affine=False))


def test_layers_are_replaced_in_place_with_the_same_tensors():
    module = network()
    before = dict(module.state_dict(keep_vars=True))
    joined = join_batchnorm(module)
    assert joined is module
    assert [type(module[place]) for place in (1, 3)] == [JointBatchNorm] * 2
    after = module.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    layer = module[1]
    assert join_batchnorm(module)[1] is layer, "once is enough"
    assert isinstance(join_batchnorm(nn.BatchNorm1d(3)), JointBatchNorm)


@pytest.mark.parametrize("forward", ["own", "of SyncBatchNorm, as on a GPU"])
@pytest.mark.parametrize("training", [True, False])
def test_on_one_process_it_is_plain_batchnorm(training, forward, monkeypatch):
    plain = network()
    joined = join_batchnorm(copy.deepcopy(plain))
    if forward != "own":
        monkeypatch.setattr(JointBatchNorm, "forward", nn.SyncBatchNorm.forward)
    for module in (plain, joined):
        module.train(training)
    x = torch.randn(5, 2, 5, 5)
    for _ in range(3):
        assert torch.equal(plain(x), joined(x))
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), joined.state_dict().values(), strict=True)
    )


def test_timms_activation_stays():
    timm_layers = pytest.importorskip("timm.layers")
    layer = timm_layers.BatchNormAct2d(3)
    x = torch.randn(4, 3, 2, 2)
    expected = copy.deepcopy(layer)(x)
    torch.testing.assert_close(join_batchnorm(layer)(x), expected)
    assert expected.min() >= 0


def test_a_forward_of_its_own_is_refused():
    class Odd(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input) + 1

    with pytest.raises(ValueError, match="Odd is a BatchNorm with a forward of its own"):
        join_batchnorm(nn.Sequential(Odd(3)))
    with pytest.raises(ValueError, match="expected"):
        join_batchnorm(nn.BatchNorm2d(3))(torch.zeros(3))
