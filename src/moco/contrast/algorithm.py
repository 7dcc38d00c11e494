"""Algorithm 1 of He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (CVPR 2020).

N: samples on this rank   C: embedding width   K: keys in the dictionary
"""

from __future__ import annotations

from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from moco.contrast.collective import all_gather_cat
from moco.contrast.dictionary import Queue, WithIds, apart
from moco.contrast.loss import scored_info_nce
from moco.contrast.model import Backward, ContrastiveModel, LossAndKeys, Shared, descend_, take_step
from moco.contrast.momentum import KeyMode, check_key_mode, check_key_momentum, ema_update_, frozen_copy
from moco.contrast.past_batchnorm import PastBatchNorm, end_step_, past_batchnorm
from moco.contrast.stored_keys import DictionaryDtype


def moco_loss(model: MoCo, x_q: Any, x_k: Any) -> LossAndKeys:
    """Loss of two views of the same samples, and the keys that `model.after_step_` takes; the queue stays as it is."""
    q_NC = model.query(x_q)  # f_q, unit norm
    k_NC = model.key(x_k)  # f_k, unit norm, no gradient
    loss, accuracy = scored_info_nce(q_NC, k_NC, model.queue.keys, temperature=model.temperature)
    return LossAndKeys(loss, accuracy, keys=all_gather_cat(k_NC))


def moco_step(
    model: MoCo, x_q: Any, x_k: Any, optimizer: torch.optim.Optimizer, *, backward: Backward = torch.Tensor.backward
) -> tuple[Tensor, Tensor]:
    """One step of Algorithm 1; returns the mean loss in nats and the pretext accuracy, both detached.

    Args:
        model, x_q, x_k: as `moco_loss`.
        optimizer: over `model.query_side`.
        backward: runs the backward pass of the loss (a framework's own); it must not scale what the optimiser takes.

    Raises:
        ValueError: `backward` left no gradient or a scaled one, or several ranks' gradients are not averaged.
    """
    loss, accuracy, keys = moco_loss(model, x_q, x_k)
    descend_(model, loss, optimizer, backward)  # f_q learns by gradient
    model.after_step_(keys)  # f_k follows; newest keys in, oldest out
    return loss.detach(), accuracy


def symmetric_moco_loss(model: MoCo, x_1: Any, x_2: Any) -> LossAndKeys:
    """Both views as query and as key: the two losses are summed, and both views' keys are enqueued once, afterwards.

    Neither view is ever its own negative, because the queue does not change until both losses are known.
    """
    q_1_NC, q_2_NC = model.query(x_1), model.query(x_2)
    k_1_NC, k_2_NC = model.key(x_1), model.key(x_2)
    loss_1, accuracy_1 = scored_info_nce(q_1_NC, k_2_NC, model.queue.keys, temperature=model.temperature)
    loss_2, accuracy_2 = scored_info_nce(q_2_NC, k_1_NC, model.queue.keys, temperature=model.temperature)
    # View by view, so that the order in the queue is the same on any number of ranks.
    keys = torch.cat([all_gather_cat(k_1_NC), all_gather_cat(k_2_NC)])
    return LossAndKeys(loss_1 + loss_2, (accuracy_1 + accuracy_2) / 2, keys)


def symmetric_moco_step(
    model: MoCo, x_1: Any, x_2: Any, optimizer: torch.optim.Optimizer, *, backward: Backward = torch.Tensor.backward
) -> tuple[Tensor, Tensor]:
    """As `moco_step`, with the loss of `symmetric_moco_loss`."""
    return take_step(model, symmetric_moco_loss(model, x_1, x_2), optimizer, backward)


class MoCo(ContrastiveModel):
    """Query encoder, key encoder and queue; the state dict has `encoder_q.*`, `encoder_k.*` and `queue.*`.

    Args:
        encoder: any module from a batch (a tensor, or a tuple or dict of tensors) to (N, C) embeddings, head
            included. It becomes `encoder_q`; with a split cure its BatchNorm layers are replaced in place. Where
            there are several ranks, every rank builds the model, and all start from rank 0's.
        dictionary_size: K, keys in the queue, at least 1; need not be a multiple of the batch.
        dictionary_dtype: how the queue stores them, see `Queue`: "fp32", "bf16" or "int8".
        embedding_dim: C, the encoder's output width.
        key_momentum: m in 0..1, how much of f_k stays at each update; may be set anew before any step.
        key_mode: "follow": f_k trains or evaluates with f_q; "eval": always in inference form (no dropout).
        with_ids: the queue keeps the numbers of its keys' samples, for `contrast_loss` with `ids_N`.
        temperature: divides the similarities, above 0; may be set anew before any step. Or a `LearnedTemperature`.
        similarity: "cosine"; "dot", of embeddings as they are; "bilinear", see `Bilinear`. What learns is part of
            `query_side`; the queue starts with unit vectors in any case.
        batchnorm: cure for the BatchNorm leak. "auto": none for an encoder without BatchNorm, "split" on one
            process, "shuffle" on several. "split": groups with their own statistics and a shuffled key batch.
            "shuffle": keys encoded on random other ranks. "average": f_k in inference form by its own earlier batches.
            "frozen": all of f_q and f_k by the statistics that the encoder came with, for trained weights. "none":
            plain BatchNorm, as Algorithm 1 is written.
        split_groups: groups of "split"; None means 8, fewer for batches under 32.

    Raises:
        ValueError: an argument outside its range, or a cure that cannot work here.
        TypeError: an encoder in half precision, or inside DistributedDataParallel.

    Source: He et al. 2020 (1911.05722), Chen et al. 2020 (2003.04297).
    """

    similarity_may_learn = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dictionary_size: int,
        key_momentum: float,
        dictionary_dtype: DictionaryDtype = "fp32",
        key_mode: KeyMode = "follow",
        with_ids: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(encoder, **shared)
        self.key_momentum = check_key_momentum(key_momentum)
        self.encoder_k = frozen_copy(self.encoder_q)
        if self.batchnorm == "average":
            self.encoder_k = past_batchnorm(self.encoder_k)
        self.key_mode = check_key_mode(key_mode, batch_counts=self.batch_counts and self.batchnorm != "average")
        self.queue = Queue(dictionary_size, self.embedding_dim, dtype=dictionary_dtype, with_ids=with_ids)
        self._start_(training=encoder.training)

    @torch.no_grad()
    def key(self, x_k: Any) -> Tensor:
        """k = f_k(x_k), (N, C), without gradient, unit norm for a cosine; the batch is shuffled where the cure says."""
        return self._encode_keys(self.encoder_k if self._call_k is None else self._call_k, x_k)

    def after_step_(self, *keys: Tensor | WithIds) -> None:
        """As `ContrastiveModel.after_step_`; keys are (N, C) of all ranks, the oldest leave."""
        super().after_step_()
        self.update_key_encoder_()  # f_k follows
        for keys_NC, ids_N in map(apart, keys):
            self.queue.enqueue(keys_NC, ids_N)  # newest keys in, oldest out

    @torch.no_grad()
    def update_key_encoder_(self) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q; "average" adds the step's BatchNorm statistics to its averages."""
        ema_update_(self.encoder_k, self.encoder_q, key_momentum=self.key_momentum)
        if self.batchnorm == "average":
            end_step_(self.encoder_k)

    def train(self, mode: bool = True) -> Self:
        """Both encoders train or evaluate together, unless f_k is averaged or said to stay in inference form."""
        super().train(mode)
        if self.batchnorm == "average" or self.key_mode == "eval":
            self.encoder_k.eval()
        for layer in self.encoder_k.modules() if self.batchnorm == "average" else ():
            if isinstance(layer, PastBatchNorm):
                layer.training = mode  # it gathers, in inference form all the same
        return self
