"""Momentum contrast with a choice of negatives: of the queue, the batch, both or none, duplicates left out.

N: samples on this rank   C: embedding width   K: keys in the dictionary
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

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
    return loss_between(model, model, x_q, x_k, negatives, ids_N)


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


def loss_between(
    asks: MoCo, answers: MoCo, x_q: Any, x_k: Any, negatives: Negatives, ids_N: Tensor | None
) -> LossAndKeys:
    """Loss of one model's queries against another's keys and queue: of one and the same in `contrast_loss`."""
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
