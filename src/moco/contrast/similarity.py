"""How alike a query and a key are, as a map of the query: the similarity is the dot product of its result with the key.

So the losses know dot products alone, and whatever the similarity learns is learnt on the query's side, as f_q is.

N: samples   C: embedding width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bilinear(nn.Module):
    """q W k^T with a learned W of shape (C, C), which starts uniform in 0..1; `forward` gives q W, (N, C).

    CURL's logits: `in_batch_info_nce(bilinear(q_NC), k_NC, temperature=1.0)`. The cross-entropy is that of the logits
    minus their row's maximum, because the loss subtracts it anyway.

    Args:
        embedding_dim: C, at least 1.

    Raises:
        ValueError: a width below 1.

    Source: Laskin, Srinivas and Abbeel 2020 (2004.04136).
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim={embedding_dim}: need at least 1")
        self.weight_CC = nn.Parameter(torch.rand(embedding_dim, embedding_dim))

    def forward(self, q_NC: Tensor) -> Tensor:
        """q W, whose dot product with a key is the similarity."""
        return q_NC @ self.weight_CC
