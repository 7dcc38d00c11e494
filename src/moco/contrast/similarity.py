"""How alike a query and a key are, as a map of the query: the similarity is the dot product of its result with the key.

So the losses know dot products alone, and whatever the similarity learns is learnt on the query's side, as f_q is.

N: samples   C: embedding width
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from moco.contrast.loss import check_temperature, normalize

SimilarityKind = Literal["cosine", "dot", "bilinear"]


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


class LearnedTemperature(nn.Module):
    """A temperature that learns with f_q, through its logarithm; `forward` gives its present value.

    It is kept between two limits by `clamp_`, which the models call after each step of the optimiser.

    Args:
        start: its first value.
        lowest, highest: its limits, above 0.

    Raises:
        ValueError: a start outside the limits, or limits that are not above 0.

    Source: Radford et al. 2021 (2103.00020), Li et al. 2021 (2107.07651), whose limits are the defaults.
    """

    def __init__(self, start: float = 0.07, *, lowest: float = 0.001, highest: float = 0.5) -> None:
        super().__init__()
        if not 0 < lowest <= start <= highest:
            raise ValueError(f"temperature {start} in {lowest}..{highest}: need 0 < lowest <= start <= highest")
        self.log = nn.Parameter(torch.tensor(math.log(start)))
        self.lowest, self.highest = lowest, highest

    def forward(self) -> Tensor:
        """The temperature, a scalar with gradient."""
        return self.log.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring it back between its limits."""
        self.log.clamp_(math.log(self.lowest), math.log(self.highest))


class Similarity(nn.Module):
    """What stands between the encoders' outputs and the loss; it learns only where it has something to learn.

    Args:
        kind: "cosine": both are scaled to unit norm; "dot": neither; "bilinear": neither, see `Bilinear`.
        embedding_dim: C.
        temperature: a learned one divides the queries here; a number is left to the loss, and only checked.

    Raises:
        ValueError: an unknown kind, or a temperature that is not above 0.
    """

    def __init__(self, kind: SimilarityKind, embedding_dim: int, temperature: float | LearnedTemperature) -> None:
        super().__init__()
        if kind not in get_args(SimilarityKind):
            raise ValueError(f"similarity={kind!r}: choose one of {', '.join(get_args(SimilarityKind))}")
        if not isinstance(temperature, LearnedTemperature):
            check_temperature(temperature)
        self.kind = kind
        self.bilinear = Bilinear(embedding_dim) if kind == "bilinear" else None
        self.temperature = temperature if isinstance(temperature, LearnedTemperature) else None

    @property
    def learns(self) -> bool:
        """Whether it has parameters."""
        return self.bilinear is not None or self.temperature is not None

    def forward(self, embeddings_NC: Tensor) -> Tensor:
        """f_q's outputs as the loss takes them, (N, C); in float32, whatever the autocast state."""
        with torch.autocast(device_type=embeddings_NC.device.type, enabled=False):
            q_NC = self.key(embeddings_NC)
            if self.bilinear is not None:
                q_NC = self.bilinear(q_NC)
            return q_NC if self.temperature is None else q_NC / self.temperature()

    def key(self, embeddings_NC: Tensor) -> Tensor:
        """f_k's outputs as the loss takes them, (N, C)."""
        if self.kind == "cosine":
            return normalize(embeddings_NC)
        half = embeddings_NC.dtype in (torch.bfloat16, torch.float16)
        return embeddings_NC.float() if half else embeddings_NC
