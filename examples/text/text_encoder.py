"""Sentence encoders: token ids (N, L), padded with 0, to embeddings (N, C).

All three average token vectors with a learned weight for each token. The weights start as those of smooth inverse
frequency (Arora et al. 2017), so that "the" begins lighter than "guitar".
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import rnn

Kind = Literal["mean", "gru", "transformer"]
SMOOTHING = 1e-3  # a of a / (a + p)
HEADS = 4


def token_log_weights(count_V: Tensor) -> Tensor:
    """log(a / (a + p)) of each token, p its share of all tokens; (V,)."""
    share_V = count_V / count_V.sum().clamp(min=1)
    return torch.log(SMOOTHING / (SMOOTHING + share_V))


class SentenceEncoder(nn.Module):
    """Weighted mean of token vectors; before it the vectors may see each other.

    Args:
        count_V: how often each token of the vocabulary occurs.
        embedding_dim: C.
        kind: "mean": vectors as they are; "gru": a bidirectional layer added to them; "transformer": one layer.
        dropout: of the mean; else of the vectors, and inside a transformer.
        max_tokens: L at most, for a transformer's positions.
    """

    def __init__(
        self, count_V: Tensor, embedding_dim: int, *, kind: Kind = "mean", dropout: float = 0.1, max_tokens: int = 64
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"encoder {kind!r}: choose one of {', '.join(get_args(Kind))}")
        self.kind, self.max_tokens = kind, max_tokens
        self.vectors = nn.Embedding(len(count_V), embedding_dim, padding_idx=0)
        self.log_weights = nn.Embedding(len(count_V), 1, padding_idx=0)
        nn.init.normal_(self.vectors.weight, std=0.02)
        with torch.no_grad():
            self.vectors.weight[0] = 0
            self.log_weights.weight[:, 0] = token_log_weights(count_V)
        self.dropout = nn.Dropout(dropout)
        if kind == "gru":
            self.gru = nn.GRU(embedding_dim, embedding_dim // 2, bidirectional=True, batch_first=True)
        if kind == "transformer":
            self.positions = nn.Embedding(max_tokens, embedding_dim)
            nn.init.normal_(self.positions.weight, std=0.002)
            self.layer = nn.TransformerEncoderLayer(
                embedding_dim, HEADS, 2 * embedding_dim, dropout, batch_first=True, norm_first=True
            )

    def forward(self, tokens_NL: Tensor) -> Tensor:
        """Embeddings, (N, C).

        Raises:
            ValueError: more tokens than a transformer has positions for.
        """
        padding_NL = tokens_NL == 0
        weight_NL = self.log_weights(tokens_NL).squeeze(-1).exp() * ~padding_NL
        weight_NL = weight_NL / weight_NL.sum(dim=1, keepdim=True).clamp(min=1e-6)
        if self.kind == "mean":  # without the vectors of all tokens in memory
            return self.dropout(bag(tokens_NL, self.vectors.weight, weight_NL))
        vectors_NLC = self.dropout(self.vectors(tokens_NL))
        if self.kind == "gru":
            lengths_N = (~padding_NL).sum(dim=1).cpu()
            packed = rnn.pack_padded_sequence(vectors_NLC, lengths_N, batch_first=True, enforce_sorted=False)
            seen_NLC = rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens_NL.shape[1])
            vectors_NLC = vectors_NLC + seen_NLC[0]
        if self.kind == "transformer":
            if tokens_NL.shape[1] > self.max_tokens:
                raise ValueError(f"{tokens_NL.shape[1]} tokens, the encoder takes {self.max_tokens}: cut the texts")
            place_L = torch.arange(tokens_NL.shape[1], device=tokens_NL.device)
            vectors_NLC = self.layer(vectors_NLC + self.positions(place_L), src_key_padding_mask=padding_NL)
        return (vectors_NLC * weight_NL[..., None]).sum(dim=1)


def bag(tokens_NL: Tensor, vectors_VC: Tensor, weight_NL: Tensor) -> Tensor:
    """Weighted sum of the vectors of each text, (N, C)."""
    return functional.embedding_bag(tokens_NL, vectors_VC, mode="sum", per_sample_weights=weight_NL, padding_idx=0)
