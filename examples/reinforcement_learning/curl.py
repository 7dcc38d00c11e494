"""CURL's contrastive part, on public names of `moco.contrast`: two crops, two encoders, a learned similarity.

N: samples   C: embedding width   S: side of a crop
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from moco.contrast import Bilinear, in_batch_info_nce

Encode = Callable[[Tensor], Tensor]


class Contrast(nn.Module):
    """The loss of queries against the batch's keys, and the optimisers that step f_q and W on it.

    f_k belongs to whoever moves it: here the momentum critic, `agent.PixelSAC`.

    Args:
        encoder: f_q.
        embedding_dim: C.
        learning_rate: of Adam.
        encoder_adams: 1, or 2 as in the authors' code, whose second optimiser steps the same encoder once more.
    """

    def __init__(self, encoder: nn.Module, *, embedding_dim: int, learning_rate: float, encoder_adams: int = 2) -> None:
        super().__init__()
        self.similarity = Bilinear(embedding_dim)  # z_a W z_k, W uniform in 0..1 at the start
        weights = list(encoder.parameters())
        stepped = [[*weights, *self.similarity.parameters()], weights][:encoder_adams]
        self.optimizers = [torch.optim.Adam(parameters, lr=learning_rate, fused=True) for parameters in stepped]

    def loss(self, f_q: Encode, f_k: Encode, x_q_NCSS: Tensor, x_k_NCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss in nats and pretext accuracy; no unit norm, no temperature, no queue."""
        q_NC = f_q(x_q_NCSS)
        with torch.no_grad():
            k_NC = f_k(x_k_NCSS)
        return in_batch_info_nce(self.similarity(q_NC), k_NC, temperature=1.0)

    def step(self, f_q: Encode, f_k: Encode, x_q_NCSS: Tensor, x_k_NCSS: Tensor) -> tuple[Tensor, Tensor]:
        """One step of f_q and W; returns loss and accuracy, detached."""
        loss, accuracy = self.loss(f_q, f_k, x_q_NCSS, x_k_NCSS)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach(), accuracy
