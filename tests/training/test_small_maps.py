"""Tap by tap, a convolution is PyTorch's own; where it would not be, or not be faster, PyTorch's own is called."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from moco.recipes import configure
from moco.training import small_maps
from moco.training.encoder import build_checked_encoder
from moco.training.small_maps import SMALLEST_TAPS, SmallMapConv2d, use_tap_products_

WIDE, WIDER = (int(SMALLEST_TAPS[size] ** 0.5) + 1 for size in (2, 4))


@pytest.fixture
def small_layers_too(monkeypatch):
    monkeypatch.setattr(small_maps, "SMALLEST_TAPS", dict.fromkeys(SMALLEST_TAPS, 1))


@pytest.fixture
def calls(monkeypatch) -> list[torch.Size]:
    """Shapes of the inputs that went tap by tap."""
    seen = []
    original = small_maps._TapByTap.apply

    def noted(input, *rest):
        seen.append(input.shape)
        return original(input, *rest)

    monkeypatch.setattr(small_maps._TapByTap, "apply", noted)
    return seen


def twin_of(layer: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    layer = layer.to(memory_format=torch.channels_last)
    other = copy.deepcopy(layer)
    use_tap_products_(nn.Sequential(other))
    return layer, other


def outcome(layer: nn.Module, images: torch.Tensor, pull_seed: int = 0) -> list[torch.Tensor]:
    images = images.clone().requires_grad_()
    output = layer(images)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(pull_seed)).to(output.dtype))
    return [output.detach(), images.grad, *(parameter.grad for parameter in layer.parameters())]


GEOMETRIES = [
    case
    for case in itertools.product((1, 2, 3, 4, 5), (1, 2, 4), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2))
    if case[0] + 2 * case[4] >= case[2] and case[1] + 2 * case[4] >= case[2]
]


@pytest.mark.parametrize("bias", [True, False])
def test_every_geometry_gives_pytorchs_output_and_gradients(bias, small_layers_too, calls):
    for height, width, kernel, stride, padding in GEOMETRIES:
        torch.manual_seed(0)
        plain, taps = twin_of(nn.Conv2d(6, 5, kernel, stride, padding, bias=bias).double())
        images = torch.randn(3, 6, height, width, dtype=torch.double)
        for one, other in zip(outcome(plain, images), outcome(taps, images), strict=True):
            torch.testing.assert_close(other, one)
    assert len(calls) > len(GEOMETRIES) // 3


def test_rectangular_kernels_strides_and_paddings_keep_their_axes(small_layers_too, calls):
    plain, taps = twin_of(nn.Conv2d(6, 5, (3, 1), (2, 1), (1, 0)))
    images = torch.randn(2, 6, 4, 2)
    for one, other in zip(outcome(plain, images), outcome(taps, images), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1


def test_bfloat16_is_as_near_to_the_truth_as_its_rounding(calls):
    plain, taps = twin_of(nn.Conv2d(WIDE, WIDE, 3, padding=1, bias=False))
    images = torch.randn(8, WIDE, 2, 2)
    truth = outcome(plain, images)
    plain.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = taps(images)
        found = outcome(taps, images)
    assert output.dtype == torch.bfloat16
    assert taps.weight.grad.dtype == torch.float32
    for one, other in zip(truth, found, strict=True):
        assert (one - other.float()).norm() < 2**-7 * one.norm()
    assert len(calls) == 2


def test_larger_maps_other_layouts_and_small_layers_stay_pytorchs(calls):
    _, taps = twin_of(nn.Conv2d(WIDE, WIDE, 3, padding=1))
    taps(torch.randn(2, WIDE, 3, 3))
    assert not calls
    taps(torch.randn(2, WIDE, 2, 2))
    assert len(calls) == 1
    _, wider = twin_of(nn.Conv2d(WIDER, WIDER, 3, padding=1))
    wider(torch.randn(2, WIDER, 5, 3))
    assert len(calls) == 1
    wider(torch.randn(2, WIDER, 4, 3))
    assert len(calls) == 2
    taps.to(memory_format=torch.contiguous_format)(torch.randn(2, WIDE, 2, 2))
    assert len(calls) == 2
    for other in (
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(2 * WIDE, 2 * WIDE, 3, groups=2),
        nn.Conv2d(WIDE, WIDE, 3, dilation=2),
        nn.Conv2d(WIDE, WIDE, 3, padding="same"),
        nn.Conv2d(WIDE, WIDE, 3, padding=1, padding_mode="reflect"),
    ):
        use_tap_products_(nn.Sequential(other))
        assert type(other) is nn.Conv2d


def test_frozen_weights_get_no_gradient_and_the_input_still_does(calls):
    _, taps = twin_of(nn.Conv2d(WIDE, WIDE, 3, padding=1, bias=False))
    taps.weight.requires_grad_(False)
    images = torch.randn(2, WIDE, 2, 2, requires_grad=True)
    taps(images).sum().backward()
    assert taps.weight.grad is None
    assert images.grad is not None
    assert len(calls) == 1


def test_a_run_s_encoder_keeps_its_names_and_uses_taps_in_its_last_stage(calls):
    config = configure("v2", {"backbone": "resnet18", "image_size": 64, "stem": "standard", "batch_size": 8})
    encoder = build_checked_encoder(config).to(memory_format=torch.channels_last)
    changed = [name for name, layer in encoder.named_modules() if isinstance(layer, SmallMapConv2d)]
    assert any("layer4" in name for name in changed)
    twin = copy.deepcopy(encoder)
    for layer in twin.modules():
        if isinstance(layer, SmallMapConv2d):
            layer.__class__ = nn.Conv2d
    assert list(twin.state_dict()) == list(encoder.state_dict())
    images = torch.randn(8, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(encoder(images), twin(images), rtol=1e-3, atol=1e-4)
    assert {tuple(shape[2:]) for shape in calls} == {(4, 4), (2, 2)}
