"""Views of token ids (N, L), padded with 0 behind: a crop, words deleted, words said twice.

A view is drawn anew at each call, from PyTorch's global generator. Dropout, the view of SimCSE, is the encoder's.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Views:
    """Chances of each change, 0 for none.

    Attributes:
        crop: least share of a text that a crop keeps, 0 to 1; 1 keeps all. Lengths are uniform between (Contriever).
        delete: chance of each token to go; a token always stays (Contriever: 0.1).
        repeat: chance of each token to be said twice (ESimCSE: up to 0.32).
    """

    crop: float = 1.0
    delete: float = 0.0
    repeat: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.crop <= 1 and 0 <= self.delete < 1 and 0 <= self.repeat <= 1):
            raise ValueError(f"{self}: need crop and repeat in 0..1, delete at least 0 and below 1")

    def __call__(self, tokens_NL: Tensor) -> Tensor:
        """A view of each text, as long as the longest of them."""
        count_NL = (tokens_NL > 0).long()  # how often each token is kept
        if self.crop < 1:
            count_NL = count_NL * random_crop(count_NL.sum(dim=1), tokens_NL.shape[1], least=self.crop)
        if self.delete > 0:
            kept_NL = count_NL * (torch.rand(count_NL.shape) >= self.delete)
            count_NL = torch.where(kept_NL.any(dim=1, keepdim=True), kept_NL, count_NL)
        if self.repeat > 0:
            count_NL = count_NL * (1 + (torch.rand(count_NL.shape) < self.repeat).long())
        return spread(tokens_NL, count_NL)


def random_crop(length_N: Tensor, width: int, *, least: float) -> Tensor:
    """(N, width), 1 on a contiguous part of each text, of one token at least."""
    share_N = least + (1 - least) * torch.rand(len(length_N))
    kept_N = (length_N * share_N).ceil().clamp(min=1)
    first_N = ((length_N - kept_N + 1) * torch.rand(len(length_N))).floor()
    place_1L = torch.arange(width)[None]
    return ((place_1L >= first_N[:, None]) & (place_1L < (first_N + kept_N)[:, None])).long()


def spread(tokens_NL: Tensor, count_NL: Tensor) -> Tensor:
    """Each token as often as it counts, in order, padded with 0 to the longest row."""
    row, place = count_NL.nonzero(as_tuple=True)
    times = count_NL[row, place]
    row, values = row.repeat_interleave(times), tokens_NL[row, place].repeat_interleave(times)
    total_N = count_NL.sum(dim=1)
    within = torch.arange(len(row)) - (total_N.cumsum(0) - total_N)[row]
    spread_NL = tokens_NL.new_zeros(len(tokens_NL), int(total_N.max()))
    spread_NL[row, within] = values
    return spread_NL
