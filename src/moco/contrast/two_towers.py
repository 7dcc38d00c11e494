"""Momentum contrast between two kinds of input: an encoder, a key encoder and a queue for each.

N: samples on this rank
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moco.contrast.algorithm import MoCo
from moco.contrast.chosen_negatives import Negatives, loss_between
from moco.contrast.model import Backward, LossAndKeys, take_step


class TwoTowers(nn.Module):
    """Two encoders for two kinds of input, each with a key encoder and a queue of its own: `a.*` and `b.*`.

    Queries of one tower meet keys and queue of the other, with the querying tower's similarity and temperature. A
    wrapper (DistributedDataParallel, compilation) goes around each tower: `towers.a.run_encoders_with(...)`.

    Args:
        a, b: with embeddings of one width; nothing else need be the same.

    Raises:
        ValueError: widths that differ, or one and the same tower twice (which is `symmetric_moco_loss`).

    Source: Li et al. 2021 (2107.07651).
    """

    backward_checked = False

    def __init__(self, a: MoCo, b: MoCo) -> None:
        super().__init__()
        if a.embedding_dim != b.embedding_dim:
            raise ValueError(f"towers with embeddings of {a.embedding_dim} and {b.embedding_dim}: need one width")
        if a is b:
            raise ValueError("one tower twice: symmetric_moco_loss takes two views of one kind")
        self.a, self.b = a, b

    @property
    def query_side(self) -> nn.Module:
        """What learns by gradient: both towers' query sides."""
        return nn.ModuleList([self.a.query_side, self.b.query_side])

    def after_step_(self, *keys: Any) -> None:
        """What follows the optimiser's step: `keys` are those of the step's loss, or of each micro-batch's."""
        self.a.after_step_(*(keys_a for keys_a, _ in keys))
        self.b.after_step_(*(keys_b for _, keys_b in keys))


def two_towers_loss(
    towers: TwoTowers, x_a: Any, x_b: Any, *, negatives: Negatives = "queue", ids_N: Tensor | None = None
) -> LossAndKeys:
    """Sum of both directions' `contrast_loss`: queries of one tower against keys of the other.

    Row i of `x_a` belongs to row i of `x_b`. Both towers' keys enter their own queue, after the step.

    Raises:
        ValueError: as `contrast_loss`.
    """
    from_a = loss_between(towers.a, towers.b, x_a, x_b, negatives, ids_N)
    from_b = loss_between(towers.b, towers.a, x_b, x_a, negatives, ids_N)
    accuracy = (from_a.pretext_accuracy + from_b.pretext_accuracy) / 2
    return LossAndKeys(from_a.loss + from_b.loss, accuracy, keys=(from_b.keys, from_a.keys))


def two_towers_step(
    towers: TwoTowers,
    x_a: Any,
    x_b: Any,
    optimizer: torch.optim.Optimizer,
    *,
    negatives: Negatives = "queue",
    ids_N: Tensor | None = None,
    backward: Backward = torch.Tensor.backward,
) -> tuple[Tensor, Tensor]:
    """As `moco_step`, with the loss of `two_towers_loss`."""
    return take_step(towers, two_towers_loss(towers, x_a, x_b, negatives=negatives, ids_N=ids_N), optimizer, backward)
