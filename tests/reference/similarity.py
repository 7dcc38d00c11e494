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
