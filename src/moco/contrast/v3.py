"""MoCo v3, Chen, Xie and He 2021 (2104.02057): keys of the current batch, a predictor on the query's side, no queue.

N: samples on this rank   C: embedding width
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from moco.contrast.collective import world_size
from moco.contrast.joint_batchnorm import join_batchnorm
from moco.contrast.loss import in_batch_info_nce
from moco.contrast.model import Backward, ContrastiveModel, LossAndKeys, take_step
from moco.contrast.momentum import check_key_momentum, ema_update_, frozen_copy


def moco_v3_loss(model: MoCoV3, x_1: Any, x_2: Any) -> LossAndKeys:
    """Loss of two views of the same samples, as the paper's Algorithm 1 has it; nothing is kept for later.

    It is the sum of both directions, each in nats times 2 temperature: 4 temperature log(batch) for equal logits.
    A query's negatives are the keys of the other samples, over all ranks.
    """
    q_1_NC, q_2_NC = model.query(x_1), model.query(x_2)  # predictor after f_q, unit norm
    k_1_NC, k_2_NC = model.key(x_1), model.key(x_2)  # f_k alone, unit norm, no gradient
    loss_1, accuracy_1 = in_batch_info_nce(q_1_NC, k_2_NC, temperature=model.temperature, decoupled=model.decoupled)
    loss_2, accuracy_2 = in_batch_info_nce(q_2_NC, k_1_NC, temperature=model.temperature, decoupled=model.decoupled)
    return LossAndKeys(2 * model.temperature * (loss_1 + loss_2), (accuracy_1 + accuracy_2) / 2)


def moco_v3_step(
    model: MoCoV3, x_1: Any, x_2: Any, optimizer: torch.optim.Optimizer, *, backward: Backward = torch.Tensor.backward
) -> tuple[Tensor, Tensor]:
    """One step of the paper's Algorithm 1: as `moco_step`, with the loss of `moco_v3_loss`."""
    return take_step(model, moco_v3_loss(model, x_1, x_2), optimizer, backward)


class MoCoV3(ContrastiveModel):
    """Query encoder, predictor and key encoder; the state dict has `encoder_q.*`, `encoder_k.*` and `predictor.*`.

    Nothing is shuffled or split: the paper has statistics of the whole batch, over all ranks (SyncBN).

    Args:
        encoder, embedding_dim, key_momentum, temperature: as `moco.contrast.MoCo`, and so are the errors; the momentum
            may be set anew before any step.
        predictor: from (N, C) to (N, C). It learns with f_q, and has no counterpart among the keys.
        decoupled: leave the positive out of the loss's denominator (2110.06848).
        batchnorm: "auto": BatchNorm statistics over all ranks, for which its layers are replaced in place where there
            are several; "none": each rank's own.
    """

    def __init__(
        self,
        encoder: nn.Module,
        predictor: nn.Module,
        *,
        embedding_dim: int,
        key_momentum: float,
        temperature: float,
        decoupled: bool = False,
        batchnorm: Literal["auto", "none"] = "auto",
    ) -> None:
        if batchnorm not in ("auto", "none"):
            raise ValueError(f"batchnorm={batchnorm!r}: MoCo v3 takes 'auto' (over all ranks) or 'none'")
        if batchnorm == "auto" and world_size() > 1:
            encoder, predictor = join_batchnorm(encoder), join_batchnorm(predictor)
        super().__init__(encoder, embedding_dim=embedding_dim, temperature=temperature, batchnorm="none")
        self.decoupled = decoupled
        self.key_momentum = check_key_momentum(key_momentum)
        self.encoder_k = frozen_copy(self.encoder_q)
        self.predictor = predictor
        self._start_(training=encoder.training)

    @property
    def query_side(self) -> nn.Module:
        """Predictor after f_q, as one module; it shares their parameters."""
        return nn.Sequential(self.encoder_q, self.predictor)

    def query(self, x_q: Any) -> Tensor:
        """q = predictor(f_q(x_q)), (N, C), unit norm, with gradient."""
        length, _ = self._checked_length(x_q)
        return self._embed(self.query_side if self._call_q is None else self._call_q, x_q, length)

    @torch.no_grad()
    def key(self, x_k: Any) -> Tensor:
        """k = f_k(x_k), (N, C), unit norm, without gradient."""
        return self._encode_keys(self.encoder_k if self._call_k is None else self._call_k, x_k)

    def after_step_(self, *_: None) -> None:
        """As `ContrastiveModel.after_step_`: f_k moves, and there is no dictionary."""
        super().after_step_()
        self.update_key_encoder_()

    @torch.no_grad()
    def update_key_encoder_(self) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q; BatchNorm statistics are f_k's own."""
        ema_update_(self.encoder_k, self.encoder_q, key_momentum=self.key_momentum)
