"""Laws of the key encoder: a frozen copy that follows."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from moco.contrast import ema_update_, frozen_copy


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))


def pair() -> tuple[nn.Module, nn.Module]:
    """Two encoders that differ in every parameter and buffer."""
    encoder_k, encoder_q = encoder(), encoder()
    for module in (encoder_k, encoder_q):
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else torch.randint(2, 99, ())
    return encoder_k, encoder_q


def test_frozen_copy_takes_no_gradient_and_brings_none() -> None:
    original = encoder()
    original(torch.randn(4, 3, 3, 3)).sum().backward()
    copied = frozen_copy(original)
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in copied.parameters())
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in original.parameters())


@pytest.mark.parametrize("seed", range(8))
def test_each_parameter_follows_by_the_formula(seed: int) -> None:
    torch.manual_seed(seed)
    encoder_k, encoder_q = pair()
    m = torch.rand(()).item()
    expected = {
        name: m * p.double() + (1 - m) * q.double()
        for (name, p), q in zip(encoder_k.named_parameters(), encoder_q.parameters(), strict=True)
    }
    kept = {name: p.clone() for name, p in encoder_q.named_parameters()}
    ema_update_(encoder_k, encoder_q, key_momentum=m)
    for name, p in encoder_k.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=1e-6, atol=1e-6)
    for name, p in encoder_q.named_parameters():
        assert torch.equal(p, kept[name])


def test_momentum_one_never_moves() -> None:
    encoder_k, encoder_q = pair()
    before = copy.deepcopy(encoder_k.state_dict())
    for _ in range(3):
        ema_update_(encoder_k, encoder_q, key_momentum=1.0)
    assert all(torch.equal(before[name], value) for name, value in encoder_k.state_dict().items())


def test_small_steps_are_not_rounded_away() -> None:
    """A thousand updates at m = 0.999 close 63 % of the gap; in half precision they close nothing."""
    encoder_k, encoder_q = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(encoder_k.weight, 1.0)
    nn.init.constant_(encoder_q.weight, 2.0)
    for _ in range(1000):
        ema_update_(encoder_k, encoder_q, key_momentum=0.999)
    assert encoder_k.weight.item() == pytest.approx(2 - 0.999**1000, abs=1e-4)


def test_own_buffers_stay_untouched() -> None:
    encoder_k, encoder_q = pair()
    before = {name: b.clone() for name, b in encoder_k.named_buffers()}
    ema_update_(encoder_k, encoder_q, key_momentum=0.3)
    assert all(torch.equal(before[name], b) for name, b in encoder_k.named_buffers())


def test_copied_buffers_equal_the_query_encoders() -> None:
    encoder_k, encoder_q = pair()
    ema_update_(encoder_k, encoder_q, key_momentum=0.3, key_buffers="copied")
    theirs = dict(encoder_q.named_buffers())
    assert len(theirs) == 3
    for name, buffer in encoder_k.named_buffers():
        assert torch.equal(buffer, theirs[name])
        assert buffer.data_ptr() != theirs[name].data_ptr()


def test_averaged_buffers_follow_and_counters_are_copied() -> None:
    encoder_k, encoder_q = pair()
    theirs = dict(encoder_q.named_buffers())
    expected = {name: 0.3 * b + 0.7 * theirs[name] for name, b in encoder_k.named_buffers()}
    ema_update_(encoder_k, encoder_q, key_momentum=0.3, key_buffers="averaged")
    for name, buffer in encoder_k.named_buffers():
        if buffer.is_floating_point():
            torch.testing.assert_close(buffer, expected[name])
        else:
            assert torch.equal(buffer, theirs[name])


@pytest.mark.parametrize("m", [-0.1, 1.1, math.nan])
def test_momentum_outside_zero_to_one_is_refused(m: float) -> None:
    with pytest.raises(ValueError, match="key_momentum=.*: need a value from 0"):
        ema_update_(*pair(), key_momentum=m)


def test_unknown_buffer_policy_is_refused() -> None:
    policy: Any = "shared"
    with pytest.raises(ValueError, match="key_buffers='shared': choose one of own, copied, averaged"):
        ema_update_(*pair(), key_momentum=0.5, key_buffers=policy)


def test_encoders_with_other_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encoders differ in \['bias'\]: f_k must be a copy of f_q"):
        ema_update_(nn.Linear(2, 2, bias=False), nn.Linear(2, 2), key_momentum=0.5)


@pytest.mark.parametrize("policy", ["copied", "averaged"])
@pytest.mark.parametrize("tracked", [True, False])
def test_encoders_with_other_buffers_are_refused(policy: Any, tracked: bool) -> None:
    one, other = nn.BatchNorm1d(2, track_running_stats=tracked), nn.BatchNorm1d(2, track_running_stats=not tracked)
    with pytest.raises(ValueError, match=r"encoders differ in .*running_mean.*: f_k must be a copy of f_q"):
        ema_update_(one, other, key_momentum=0.5, key_buffers=policy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"0.weight is torch\.(b?)float16: keep the encoders in float32"):
        frozen_copy(encoder().to(dtype))
    with pytest.raises(TypeError, match="keep the encoders in float32"):
        ema_update_(encoder().to(dtype), encoder().to(dtype), key_momentum=0.5)
