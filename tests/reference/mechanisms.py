"""The paper's other two mechanisms as they are written there, sample by sample. N: samples   M: samples in the bank"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.reference.info_nce import plain_in_batch, plain_info_nce


def naive_end_to_end(encoder: nn.Module, x_q: Tensor, x_k: Tensor, temperature: float) -> Tensor:
    """The loss of one batch, differentiable through both views."""
    q_NC, k_NC = (functional.normalize(encoder(x), dim=1) for x in (x_q, x_k))
    return plain_in_batch(q_NC, k_NC, temperature)


def naive_memory_bank(
    encoder: nn.Module, x: Tensor, indices: list[int], drawn: list[int], bank_MC: Tensor, temperature: float
) -> Tensor:
    """The loss of one batch; the numbers in `drawn` are the negatives of each sample but itself."""
    losses = []
    for q_C, own in zip(functional.normalize(encoder(x), dim=1), indices, strict=True):
        negatives = [number for number in drawn if number != own]
        losses.append(plain_info_nce(q_C[None], bank_MC[own][None], bank_MC[negatives], temperature))
    return torch.stack(losses).mean()


def naive_bank_update(bank_MC: Tensor, indices: list[int], q_NC: Tensor, bank_momentum: float) -> Tensor:
    """The bank after a step whose samples are all different."""
    bank_MC = bank_MC.clone()
    for number, q_C in zip(indices, q_NC, strict=True):
        mixed_C = bank_momentum * bank_MC[number] + (1 - bank_momentum) * q_C
        bank_MC[number] = mixed_C / mixed_C.norm()
    return bank_MC
