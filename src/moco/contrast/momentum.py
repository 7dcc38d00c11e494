"""The key encoder: a frozen copy that follows the query encoder slowly."""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn

KeyBuffers = Literal["own", "copied", "averaged"]


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
      runs in inference form (EMAN, Cai et al. 2021).

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
    _follow_({n: ours[n] for n in moving}, {n: theirs[n] for n in moving}, key_momentum)
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


def _check_names(keys: dict[str, Tensor], queries: dict[str, Tensor]) -> None:
    if keys.keys() != queries.keys():
        raise ValueError(f"encoders differ in {sorted(keys.keys() ^ queries.keys())[:3]}: f_k must be a copy of f_q")


def _check_precision(name: str, tensor: Tensor) -> None:
    if tensor.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"{name} is {tensor.dtype}: keep the encoders in float32 and use autocast, because a momentum update "
            "of 1 - key_momentum is below half precision's resolution"
        )
