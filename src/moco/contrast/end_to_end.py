"""The end-to-end mechanism, figure 2a of He et al. 2020: keys of the current batch, with gradient.

N: samples on this rank   C: embedding width
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from moco.contrast.loss import in_batch_info_nce
from moco.contrast.model import Backward, ContrastiveModel, LossAndKeys, Shared, take_step


def end_to_end_loss(model: EndToEnd, x_q: Any, x_k: Any) -> LossAndKeys:
    """Loss of two views of the same samples, log(batch) for equal logits; nothing is kept for later.

    The dictionary is the batch itself, over all ranks: a query's negatives are the keys of the other samples.
    """
    q_NC = model.query(x_q)  # f_q, unit norm
    k_NC = model.key(x_k)  # f_q again, in other company, with gradient
    loss, accuracy = in_batch_info_nce(q_NC, k_NC, temperature=model.temperature, decoupled=model.decoupled)
    return LossAndKeys(loss, accuracy)


def end_to_end_step(
    model: EndToEnd, x_q: Any, x_k: Any, optimizer: torch.optim.Optimizer, *, backward: Backward = torch.Tensor.backward
) -> tuple[Tensor, Tensor]:
    """As `moco_step`, with the loss of `end_to_end_loss`."""
    return take_step(model, end_to_end_loss(model, x_q, x_k), optimizer, backward)


class EndToEnd(ContrastiveModel):
    """One encoder for queries and keys, f_k = f_q; the state dict has `encoder_q.*` alone.

    The paper lets the two encoders be the same, partially shared or different; here they are the same, the usual form
    of in-batch contrast. BatchNorm is cured as in MoCo: keys are encoded in other company than their queries.

    Arguments and errors are those of `moco.contrast.MoCo`, without queue and key encoder, and so without the cure
    "average". `decoupled` leaves the positive out of the loss's denominator (Yeh et al. 2022, 2110.06848).

    Source: He et al. 2020 (1911.05722), section 3.2.
    """

    def __init__(self, encoder: nn.Module, *, decoupled: bool = False, **shared: Unpack[Shared]) -> None:
        if shared.get("batchnorm") == "average":
            raise ValueError("batchnorm='average' end to end: there is no key encoder to average, choose 'auto'")
        super().__init__(encoder, **shared)
        self.decoupled = decoupled
        self._start_(training=encoder.training)

    def key(self, x_k: Any) -> Tensor:
        """k = f_q(x_k), (N, C), unit norm, with gradient; the batch is shuffled where the cure says so."""
        return self._encode_keys(self.encoder_q if self._call_q is None else self._call_q, x_k)
