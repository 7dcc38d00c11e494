"""The key encoder: a frozen copy that follows the query encoder slowly."""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn

KeyBuffers = Literal["own", "copied", "averaged"]
# Averaged statistics give the newest ones a weight of at least 10 / (n + 9) after n forward passes of f_q, so that what
# BatchNorm layers begin with (mean 0, variance 1) is soon gone; 1 - m alone keeps much of it for 1,000 steps.
WARM_UP = 10


def frozen_copy(encoder: nn.Module) -> nn.Module:
    """A deep copy, head included, whose parameters never take a gradient.

    Raises:
        TypeError: a parameter in half precision, where steps of (1 - key_momentum) would be rounded away.
    """
    for name, parameter in encoder.named_parameters():
        _check_precision(name, parameter)
    copied = copy.deepcopy(encoder).requires_grad_(False)
    copied.zero_grad(set_to_none=True)  # a copy of a trained module brings its gradients along
    return copied


def check_key_momentum(key_momentum: float) -> float:
    """The momentum itself, if it lies in 0..1.

    Raises:
        ValueError: it does not.
    """
    if not 0.0 <= key_momentum <= 1.0:
        raise ValueError(f"key_momentum={key_momentum}: need a value from 0 (copy at each step) to 1 (never moves)")
    return key_momentum


@torch.no_grad()
def ema_update_(
    encoder_k: nn.Module, encoder_q: nn.Module, *, key_momentum: float, key_buffers: KeyBuffers = "own"
) -> None:
    """theta_k <- m theta_k + (1 - m) theta_q, eq. (2) of He et al. 2020, fused over all tensors, in place.

    Parameters always follow. Buffers (BatchNorm statistics, counters) follow the stated policy:

    - "own": untouched; the key encoder gathers its own statistics in its own forward passes (the papers).
    - "copied": the query encoder's values.
    - "averaged": floating-point buffers follow like the parameters, others are copied; for a key encoder that
      runs in inference form (EMAN, Cai et al. 2021). Those of a BatchNorm that has seen n batches give way faster at
      first, by 10 / (n + 9): the parameters begin as f_q's, the statistics as nobody's.

    Raises:
        ValueError: a momentum outside 0..1, an unknown policy, or encoders of different structure.
        TypeError: parameters in half precision.
    """
    check_key_momentum(key_momentum)
    if key_buffers not in get_args(KeyBuffers):
        raise ValueError(f"key_buffers={key_buffers!r}: choose one of {', '.join(get_args(KeyBuffers))}")
    _follow_(dict(encoder_k.named_parameters()), dict(encoder_q.named_parameters()), key_momentum)
    if key_buffers == "own":
        return
    theirs, ours = dict(encoder_q.named_buffers()), dict(encoder_k.named_buffers())
    _check_names(ours, theirs)
    moving = {name for name, buffer in theirs.items() if buffer.is_floating_point() and key_buffers == "averaged"}
    counted = {name for name in moving if _counter(name) in theirs}
    rest = moving - counted
    _follow_({n: ours[n] for n in rest}, {n: theirs[n] for n in rest}, key_momentum)
    for name in counted:  # on the device: reading a counter would make the host wait
        newest = (WARM_UP / (theirs[_counter(name)] + (WARM_UP - 1))).clamp(1.0 - key_momentum, 1.0)
        ours[name].lerp_(theirs[name], newest.to(ours[name].dtype))
    for name, buffer in ours.items():
        if name not in moving:
            buffer.copy_(theirs[name])


def _follow_(keys: dict[str, Tensor], queries: dict[str, Tensor], key_momentum: float) -> None:
    _check_names(keys, queries)
    for name, tensor in keys.items():
        _check_precision(name, tensor)
    if keys:
        names = list(keys)
        torch._foreach_lerp_([keys[n] for n in names], [queries[n] for n in names], 1.0 - key_momentum)


def _counter(name: str) -> str:
    """The buffer that counts the batches of the BatchNorm with this statistic."""
    return f"{name.rpartition('.')[0]}.num_batches_tracked".removeprefix(".")


def _check_names(keys: dict[str, Tensor], queries: dict[str, Tensor]) -> None:
    if keys.keys() != queries.keys():
        raise ValueError(f"encoders differ in {sorted(keys.keys() ^ queries.keys())[:3]}: f_k must be a copy of f_q")


def _check_precision(name: str, tensor: Tensor) -> None:
    if tensor.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"{name} is {tensor.dtype}: keep the encoders in float32 and use autocast, because a momentum update "
            "of 1 - key_momentum is below half precision's resolution"
        )
