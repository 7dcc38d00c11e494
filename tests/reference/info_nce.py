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


def plain_in_batch(q_NC: Tensor, k_NC: Tensor, temperature: float) -> Tensor:
    """End to end: cross-entropy over the N x N similarities; a query's own key is its label."""
    return functional.cross_entropy(q_NC @ k_NC.T / temperature, torch.arange(len(q_NC)))


def plain_without_own(q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor, own_N: Tensor, temperature: float) -> Tensor:
    """Query by query, with a dictionary that lacks the row of the query's own sample."""
    losses = []
    for q_C, k_C, own in zip(q_NC, k_NC, own_N.tolist(), strict=True):
        others = [row for row in range(len(keys_KC)) if row != own]
        losses.append(plain_info_nce(q_C[None], k_C[None], keys_KC[others], temperature))
    return torch.stack(losses).mean()


def plain_accuracy(q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor, own_N: Tensor | None = None) -> float:
    """Share of queries that are nearer to their positive than to every negative, one by one."""
    hits = 0
    for i, (q_C, k_C) in enumerate(zip(q_NC, k_NC, strict=True)):
        others = [row for row in range(len(keys_KC)) if own_N is None or row != own_N[i]]
        hits += all(float(q_C @ k_C) > float(q_C @ keys_KC[row]) for row in others)
    return hits / len(q_NC)


def plain_decoupled(
    q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor, temperature: float, own_N: Tensor | None = None
) -> Tensor:
    """Query by query: the log of the sum over its negatives alone, less its positive logit (2110.06848, eq. 6)."""
    losses = []
    for i, (q_C, k_C) in enumerate(zip(q_NC, k_NC, strict=True)):
        others = [row for row in range(len(keys_KC)) if own_N is None or row != own_N[i]]
        negatives = torch.stack([(q_C * keys_KC[row]).sum() / temperature for row in others])
        losses.append(negatives.exp().sum().log() - (q_C * k_C).sum() / temperature)
    return torch.stack(losses).mean()
