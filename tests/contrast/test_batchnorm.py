"""Laws of split BatchNorm. N: samples   S: groups   C: channels"""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.contrast import MoCo
from moco.contrast.batch import select
from moco.contrast.batchnorm import (
    SplitBatchNorm,
    interleave,
    split_batchnorm,
)
from tests.reference.split_batchnorm import split_normalize

CPU = torch.device("cpu")
KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def random_layer(kind: type[_BatchNorm], channels: int, groups: int | None, **options: object) -> SplitBatchNorm:
    layer = kind(channels, **options)  # type: ignore[arg-type]
    for tensor in [*layer.parameters(), *layer.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5
    split = split_batchnorm(layer, groups)
    assert isinstance(split, SplitBatchNorm)
    return split


def normalize_interleaved(layer: SplitBatchNorm, x: Tensor, groups: int) -> Tensor:
    order = interleave(len(x), groups, CPU)
    output: Tensor = layer(x[order])[order.argsort()]
    return output


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 6),
    per_group=st.integers(2, 5),
    extra=st.integers(0, 5),
    channels=st.integers(1, 5),
    ndim=st.sampled_from([2, 3, 4, 5]),
    channels_last=st.booleans(),
    bn_momentum=st.sampled_from([0.1, 1.0, 0.01]),
    seed=st.integers(0, 10_000),
)
def test_split_after_interleave_is_the_demos_definition(
    groups: int,
    per_group: int,
    extra: int,
    channels: int,
    ndim: int,
    channels_last: bool,
    bn_momentum: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    size = groups * per_group + extra % groups  # S need not divide N
    layer = random_layer(KINDS[ndim], channels, groups, momentum=bn_momentum)
    x = torch.randn(size, channels, *[3] * (ndim - 2), dtype=torch.float32) * 2 + 1
    if channels_last and ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    upstream = torch.randn_like(x)
    twin = x.detach().double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in (layer.weight, layer.bias))
    expected, mean, variance = split_normalize(
        twin,
        weight,
        bias,
        layer.running_mean.double(),  # type: ignore[union-attr]
        layer.running_var.double(),  # type: ignore[union-attr]
        groups=groups,
        factor=bn_momentum,
        eps=layer.eps,
    )
    output = normalize_interleaved(layer, x, groups)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(output.double(), expected, **close)
    torch.testing.assert_close(layer.running_mean.double(), mean, **close)  # type: ignore[union-attr]
    torch.testing.assert_close(layer.running_var.double(), variance, **close)  # type: ignore[union-attr]
    assert int(layer.num_batches_tracked) == 1  # type: ignore[arg-type]
    ours = torch.autograd.grad((output * upstream).sum(), [x, layer.weight, layer.bias])
    naive = torch.autograd.grad((expected * upstream.double()).sum(), [twin, weight, bias])
    for got, wanted in zip(ours, naive, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-3)


def test_channels_last_stays_channels_last() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 6, 5, 5).contiguous(memory_format=torch.channels_last)
    selected = select(x, interleave(16, 4, CPU))
    assert selected.is_contiguous(memory_format=torch.channels_last)
    selected.requires_grad_()
    layer = random_layer(nn.BatchNorm2d, 6, 4)
    plain = copy.deepcopy(layer)
    output = layer(selected)
    assert output.is_contiguous(memory_format=torch.channels_last)
    grad = torch.autograd.grad(output.square().sum(), selected)[0]
    assert grad.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, plain(selected.contiguous()), rtol=1e-5, atol=1e-5)


def test_any_memory_layout_gives_the_same_output_and_gradient() -> None:
    layer = random_layer(nn.BatchNorm1d, 6, 4)
    base = torch.randn(16, 5, 6).transpose(1, 2)  # (N, C, L), neither contiguous nor channels-last
    upstream = torch.randn(16, 5, 6).transpose(1, 2)
    results = []
    for x, grad in ((base, upstream), (base.contiguous(), upstream.contiguous()), (base.contiguous(), upstream)):
        x = x.detach().requires_grad_()
        output = layer(x)
        results.append((output.detach(), *torch.autograd.grad(output, [x, layer.weight], grad)))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_layers_without_weights_or_statistics_split_too(affine: bool, tracked: bool) -> None:
    torch.manual_seed(1)
    layer = nn.BatchNorm1d(3, affine=affine, track_running_stats=tracked)
    split = split_batchnorm(copy.deepcopy(layer), 2)
    x = torch.randn(8, 3, requires_grad=True)
    expected = torch.cat([layer(x[:4]), layer(x[4:])])
    torch.testing.assert_close(split(x), expected)
    upstream = torch.randn(8, 3)
    ours, naive = (torch.autograd.grad(y, x, upstream)[0] for y in (split(x), expected))
    torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-5)


def test_cumulative_statistics_are_the_mean_over_batches() -> None:
    layer = split_batchnorm(nn.BatchNorm1d(3, momentum=None), 4)
    batches = [torch.randn(16, 3) + level for level in range(5)]
    for x in batches:
        layer(x)
    torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean(dim=(0, 1)))
    variances = [x.view(4, 4, 3).var(dim=1).mean(dim=0) for x in batches]
    torch.testing.assert_close(layer.running_var, torch.stack(variances).mean(dim=0))
    assert int(layer.num_batches_tracked) == 5


def test_half_precision_activations_keep_float32_statistics() -> None:
    layer = random_layer(nn.BatchNorm2d, 4, 2)
    plain = copy.deepcopy(layer)
    x = (torch.randn(8, 4, 6, 6) + 3).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    reference = x.detach().float().requires_grad_()
    expected = plain(reference)
    torch.testing.assert_close(output.float(), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(layer.running_mean, plain.running_mean, rtol=1e-4, atol=1e-4)
    assert layer.running_var is not None
    assert layer.running_var.dtype == torch.float32
    upstream = torch.randn(8, 4, 6, 6)
    ours = torch.autograd.grad(output, x, upstream.bfloat16())[0]
    naive = torch.autograd.grad(expected, reference, upstream)[0]
    torch.testing.assert_close(ours.float(), naive, rtol=5e-2, atol=5e-2)


def test_evaluation_is_plain_batchnorm_and_changes_nothing() -> None:
    plain = nn.BatchNorm2d(3)
    plain(torch.randn(9, 3, 4, 4) * 3 + 1)
    split = split_batchnorm(copy.deepcopy(plain), 4).eval()
    before = copy.deepcopy(split.state_dict())
    for size in (1, 7):  # any number of samples
        x = torch.randn(size, 3, 4, 4)
        assert torch.equal(split(x), plain.eval()(x))
    assert all(torch.equal(before[name], value) for name, value in split.state_dict().items())


class Net(nn.Module):
    """BatchNorm in a list, nested, behind None, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Sequential(nn.BatchNorm2d(4)), nn.BatchNorm2d(4, affine=False)])
        self.first = self.second = nn.BatchNorm1d(4)
        self.register_module("absent", None)


def test_split_owns_the_same_tensors_under_the_same_names() -> None:
    net = Net()
    before = {name: value.data_ptr() for name, value in net.state_dict().items()}
    order = [name for name, _ in net.named_parameters()]
    parameters = {id(p) for p in net.parameters()}
    assert split_batchnorm(net, 2) is net
    assert {name: value.data_ptr() for name, value in net.state_dict().items()} == before
    assert {id(p) for p in net.parameters()} == parameters
    assert [name for name, _ in net.named_parameters()] == order


def test_no_batchnorm_layer_is_left_unsplit() -> None:
    net = split_batchnorm(Net(), 2)
    layers = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    assert len(layers) >= 4
    assert all(isinstance(layer, SplitBatchNorm) for layer in [*layers, net.first, net.second])


def test_sync_batchnorm_is_refused_wherever_it_hides() -> None:
    with pytest.raises(ValueError, match="SyncBatchNorm does not cure the leak"):
        split_batchnorm(nn.Sequential(nn.Sequential(nn.SyncBatchNorm(3))), 2)
    with pytest.raises(ValueError, match="SyncBatchNorm does not cure the leak"):
        MoCo(
            nn.Sequential(nn.Linear(3, 3), nn.SyncBatchNorm(3)),
            dictionary_size=4,
            embedding_dim=3,
            key_momentum=0.9,
            temperature=0.2,
        )


class Centred(nn.BatchNorm1d):
    """A subclass that does more than BatchNorm; replacing it would lose the difference."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def test_a_batchnorm_with_a_forward_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="Centred is a BatchNorm with a forward of its own"):
        split_batchnorm(nn.Sequential(Centred(3)), 2)


def test_timms_activation_inside_batchnorm_survives() -> None:
    layers = pytest.importorskip("timm.layers")
    fused = layers.BatchNormAct2d(3, act_layer=nn.SiLU)
    split = split_batchnorm(copy.deepcopy(fused), 2)
    assert fused.state_dict().keys() == split.state_dict().keys()
    x = torch.randn(8, 3, 4, 4)
    torch.testing.assert_close(split(x), torch.cat([fused(x[:4]), fused(x[4:])]))
    fused.load_state_dict(split.state_dict())
    torch.testing.assert_close(split.eval()(x), fused.eval()(x))
