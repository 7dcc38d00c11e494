"""InfoNCE as the paper writes it: all N x (1 + K) logits at once, cross-entropy with the positive as class 0."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def plain_logits(q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor, temperature: float) -> Tensor:
    """(N, 1 + K), positive first."""
    positive_N1 = torch.einsum("nc,nc->n", q_NC, k_NC)[:, None]
    negative_NK = torch.einsum("nc,kc->nk", q_NC, keys_KC)
    return torch.cat([positive_N1, negative_NK], dim=1) / temperature


def plain_info_nce(q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor, temperature: float) -> Tensor:
    """Mean loss in nats, differentiable in all three tensors through autograd."""
    logits = plain_logits(q_NC, k_NC, keys_KC, temperature)
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
