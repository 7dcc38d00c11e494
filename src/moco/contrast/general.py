"""Momentum contrast with a choice of negatives, and between two towers: for text, reinforcement learning, any pairs.

N: samples on this rank   C: embedding width   K: keys in the dictionary
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from moco.contrast.algorithm import MoCo
from moco.contrast.collective import all_gather_cat
from moco.contrast.loss import in_batch_info_nce, scored_info_nce
from moco.contrast.model import Backward, LossAndKeys, take_step

Negatives = Literal["queue", "batch", "both", "none"]


def contrast_loss(
    model: MoCo, x_q: Any, x_k: Any, *, negatives: Negatives = "queue", ids_N: Tensor | None = None
) -> LossAndKeys:
    """As `moco_loss`, which it is to the bit for "queue" without ids, with other negatives.

    Args:
        model, x_q, x_k: as `moco_loss`.
        negatives: "queue"; "batch": the other keys of the batch, over all ranks; "both"; "none": only the positive
            counts, (1 - q k) / temperature with a cosine, BYOL's form, which collapses unless f_q ends with a
            predictor that f_k is given, too, or something else holds the two apart.
        ids_N: int64, not negative: samples of one number are none of each other's negatives, in the batch and in the
            queue. For a model `with_ids`, and for no other.

    Raises:
        ValueError: an unknown choice, ids that are missing or not kept, or a batch without any negative.
    """
    return _loss(model, model, x_q, x_k, negatives, ids_N)


def contrast_step(
    model: MoCo,
    x_q: Any,
    x_k: Any,
    optimizer: torch.optim.Optimizer,
    *,
    negatives: Negatives = "queue",
    ids_N: Tensor | None = None,
    backward: Backward = torch.Tensor.backward,
) -> tuple[Tensor, Tensor]:
    """As `moco_step`, with the loss of `contrast_loss`."""
    return take_step(model, contrast_loss(model, x_q, x_k, negatives=negatives, ids_N=ids_N), optimizer, backward)


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
    from_a = _loss(towers.a, towers.b, x_a, x_b, negatives, ids_N)
    from_b = _loss(towers.b, towers.a, x_b, x_a, negatives, ids_N)
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


def _loss(asks: MoCo, answers: MoCo, x_q: Any, x_k: Any, negatives: Negatives, ids_N: Tensor | None) -> LossAndKeys:
    if negatives not in get_args(Negatives):
        raise ValueError(f"negatives={negatives!r}: choose one of {', '.join(get_args(Negatives))}")
    queue, temperature = answers.queue, asks.temperature
    if (ids_N is None) != (queue.ids_K is None):
        raise ValueError("ids_N and the model's with_ids: give both or none")
    q_NC, k_NC = asks.query(x_q), answers.key(x_k)
    if negatives == "queue":
        found = scored_info_nce(q_NC, k_NC, queue.keys, temperature=temperature, ids_N=ids_N, ids_K=queue.ids_K)
    elif negatives == "batch":
        found = in_batch_info_nce(q_NC, k_NC, temperature=temperature, ids_N=ids_N)
    elif negatives == "both":
        found = in_batch_info_nce(q_NC, k_NC, queue.keys, temperature=temperature, ids_N=ids_N, ids_K=queue.ids_K)
    else:
        found = _positives_alone(asks, q_NC, k_NC)
    keys = all_gather_cat(k_NC)
    return LossAndKeys(*found, keys=keys if ids_N is None else (keys, all_gather_cat(ids_N)))


def _positives_alone(asks: MoCo, q_NC: Tensor, k_NC: Tensor) -> tuple[Tensor, Tensor]:
    if asks.similarity.kind != "cosine" or asks.similarity.learns:
        raise ValueError("negatives='none' needs similarity='cosine' and a fixed temperature")
    loss = (1.0 - (q_NC * k_NC).sum(dim=1)).mean() / asks.temperature
    return loss, torch.ones_like(loss.detach())
