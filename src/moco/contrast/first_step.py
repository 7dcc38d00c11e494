"""Mistakes of a training loop that would stay silent, looked for in its first step alone: later ones wait for nothing.

W: number of ranks   S: a few values of every parameter
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from moco.contrast.collective import all_gather_cat, world_size

P = ParamSpec("P")
R = TypeVar("R")
# A gradient scaler multiplies by 65,536 at first; who averages or weighs losses stays far below this.
SUSPECT_SCALE = 100.0
VALUES_OF_EACH = 8


def checks_backward(step: Callable[P, R]) -> Callable[P, R]:
    """A step whose `backward` is checked the first time that it meets a model.

    Raises (the step):
        ValueError: `backward` left no gradient, or a scaled one which the optimiser took as it was.
    """

    @functools.wraps(step)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        model: Any = kwargs.get("model", args[0] if args else None)
        if model.backward_checked:
            return step(*args, **kwargs)
        backward: Any = kwargs.pop("backward", Tensor.backward)
        arrived: list[Tensor] = []  # the gradient of the loss, 1 unless something scales
        left: list[Tensor] = []

        def watched(loss: Tensor) -> None:
            loss.register_hook(arrived.append)  # type: ignore[no-untyped-call]
            backward(loss)
            left.append(_gradient_norm(model.query_side))

        kwargs["backward"] = watched
        result = step(*args, **kwargs)
        scale = float(arrived[0].abs()) if arrived else 1.0
        # An optimiser that knows of the scale (Fabric's, Accelerate's) has divided the gradients by it.
        if scale > SUSPECT_SCALE and float(_gradient_norm(model.query_side)) > float(left[0]) / scale**0.5:
            raise ValueError(
                f"backward= scales the loss by {scale:g}, and the optimizer's step takes the gradients as they are: "
                "call moco_loss and the scaler yourself (docs/own-loop.md), or pass Fabric's backward and optimizer"
            )
        model.backward_checked = True
        return result

    return checked


def _gradient_norm(module: nn.Module) -> Tensor:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients:
        raise ValueError(
            "backward= left no gradient in the encoder: it must run the backward pass of the loss that it gets "
            "(a GradScaler's scale does not; docs/own-loop.md shows a loop with one)"
        )
    norm: Tensor = torch.stack([gradient.float().norm() for gradient in gradients]).norm()
    return norm


def sample_values(module: nn.Module) -> Tensor:
    """(S,), float32: the first values of every parameter that learns, by which ranks compare what they learnt."""
    return torch.cat([p.detach().flatten()[:VALUES_OF_EACH].float() for p in module.parameters() if p.requires_grad])


def ranks_moved_alike(start_S: Tensor, now_S: Tensor) -> bool:
    """Whether parameters have moved on any rank; False while none has (a learning rate of 0, say).

    Raises:
        ValueError: they moved differently, by more than what different hardware rounds differently.
    """
    moved_WS = all_gather_cat((now_S - start_S)[None])
    size, apart = torch.stack([moved_WS[0].norm(), (moved_WS - moved_WS[0]).norm(dim=1).max()]).tolist()
    if apart > 0.01 * size:
        raise ValueError(
            f"the query encoders of {world_size()} ranks moved apart in the first step, as gradients are not averaged: "
            "model.run_encoders_with(query=DistributedDataParallel(model.query_side, broadcast_buffers=False))"
        )
    return bool(size > 0)
