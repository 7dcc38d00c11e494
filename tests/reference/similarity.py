"""Similarities as they are written down, pair by pair. N: samples   C: embedding width"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def curl_loss(q_NC: Tensor, weight_CC: Tensor, k_NC: Tensor) -> Tensor:
    """CURL: logits q W k^T minus the maximum of their row, cross-entropy with a query's own key as its label."""
    logits_NN = torch.einsum("ia,ab,jb->ij", q_NC, weight_CC, k_NC)
    logits_NN = logits_NN - logits_NN.max(dim=1, keepdim=True).values
    return functional.cross_entropy(logits_NN, torch.arange(len(q_NC)))


def clip_loss(q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor, log_temperature: Tensor) -> Tensor:
    """Cosine logits divided by a temperature that learns through its logarithm; the positive is class 0."""
    q_NC = q_NC / q_NC.norm(dim=1, keepdim=True)
    logits = torch.cat([(q_NC * k_NC).sum(dim=1, keepdim=True), q_NC @ keys_KC.T], dim=1) / log_temperature.exp()
    return -(logits[:, 0] - logits.logsumexp(dim=1)).mean()


def plain_negatives(
    q_NC: Tensor,
    k_NC: Tensor,
    keys_KC: Tensor,
    temperature: float,
    *,
    batch: bool,
    ids_N: list[int] | None = None,
    ids_K: list[int] | None = None,
) -> Tensor:
    """Query by query: the positive, then each key that is a negative, one after the other."""
    losses = []
    for i, q_C in enumerate(q_NC):
        held = [k_C for j, k_C in enumerate(k_NC) if batch and j != i and (ids_N is None or ids_N[j] != ids_N[i])]
        held += [k_C for j, k_C in enumerate(keys_KC) if ids_N is None or ids_K is None or ids_K[j] != ids_N[i]]
        logits = torch.stack([q_C @ k_NC[i], *(q_C @ k_C for k_C in held)]) / temperature
        losses.append(-logits.log_softmax(dim=0)[0])
    return torch.stack(losses).mean()
