"""Mistakes of a training loop that would stay silent, looked for in its first step alone: later ones wait for nothing.

W: number of ranks   S: a few values of every parameter
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moco.contrast.collective import all_gather_cat, world_size

# A gradient scaler multiplies by 65,536 at first; who averages or weighs losses stays far below this.
SUSPECT_SCALE = 100.0
WRAPPING = "model.run_encoders_with(query=DistributedDataParallel(model.query_side, broadcast_buffers=False))"


def gradient_norm(module: nn.Module) -> Tensor:
    """Length of the gradient of all parameters.

    Raises:
        ValueError: there is none.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients:
        raise ValueError(
            "backward= left no gradient in the encoder: it must run the backward pass of the loss that it gets "
            "(a GradScaler's scale does not; docs/own-loop.md shows a loop with one)"
        )
    return torch.stack([gradient.float().norm() for gradient in gradients]).norm()  # type: ignore[no-any-return]


def check_scale(scale: float, *, left: Tensor, taken: Tensor) -> None:
    """Norms of the gradient that a scaled loss left and that the optimiser took: one that knows of it divides.

    Raises:
        ValueError: the optimiser took the scaled gradient as it was.
    """
    if scale > SUSPECT_SCALE and float(taken) > float(left) / scale**0.5:
        raise ValueError(
            f"backward= scales the loss by {scale:g}, and the optimizer's step takes the gradients as they are: "
            "call moco_loss and the scaler yourself (docs/own-loop.md), or pass Fabric's backward and optimizer"
        )


def sample_values(module: nn.Module) -> Tensor:
    """(S,), float32: the first values of every parameter that learns, by which ranks compare what they learnt."""
    return torch.cat([p.detach().flatten()[:8].float() for p in module.parameters() if p.requires_grad])


def ranks_moved_alike(start_S: Tensor, now_S: Tensor) -> bool:
    """Whether parameters have moved on any rank; False while none has (a learning rate of 0, say).

    Raises:
        ValueError: they moved differently, by more than what different hardware rounds differently.
    """
    moved_WS = all_gather_cat((now_S - start_S)[None])
    size, apart = torch.stack([moved_WS.norm(dim=1).max(), (moved_WS - moved_WS[0]).norm(dim=1).max()]).tolist()
    if apart > 0.01 * size:
        raise ValueError(
            f"the query encoders of {world_size()} ranks moved apart in the first step, as gradients are not averaged: "
            f"{WRAPPING}"
        )
    return bool(size > 0)
