"""The memory bank, figure 2b of He et al. 2020, from Wu et al. 2018: an embedding stored for each sample, one encoder.

N: samples on this rank   K: negatives drawn from the bank   M: samples in the bank   C: embedding width
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from moco.contrast.collective import all_gather_cat, world_size
from moco.contrast.dictionary import Bank, rows_of
from moco.contrast.loss import scored_info_nce
from moco.contrast.model import Backward, ContrastiveModel, LossAndKeys, Shared, take_step


def memory_bank_loss(model: MemoryBank, x: Any, indices_N: Tensor) -> LossAndKeys:
    """Loss of one view of each sample; `keys` are the samples' numbers and queries, of all ranks.

    Args:
        model: encoder and bank.
        x: the view.
        indices_N: which samples they are, int64, 0 to M - 1, on the model's device.
    """
    q_NC = model.query(x)  # f_q, unit norm
    k_NC = model.bank.embeddings_MC[indices_N]  # what the bank remembers of the same samples
    drawn_K = model.bank.draw(model.dictionary_size)
    keys_KC, own_N = model.bank.embeddings_MC[drawn_K], rows_of(indices_N, drawn_K)  # own samples are no negatives
    options: Any = {"temperature": model.temperature, "decoupled": model.decoupled}
    loss, accuracy = scored_info_nce(q_NC, k_NC, keys_KC, own_N=own_N, **options)
    return LossAndKeys(loss, accuracy, keys=(all_gather_cat(indices_N), all_gather_cat(q_NC.detach())))


def memory_bank_step(
    model: MemoryBank,
    x: Any,
    indices_N: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    backward: Backward = torch.Tensor.backward,
) -> tuple[Tensor, Tensor]:
    """As `moco_step`, with the loss of `memory_bank_loss`."""
    return take_step(model, memory_bank_loss(model, x, indices_N), optimizer, backward)


class MemoryBank(ContrastiveModel):
    """Query encoder and bank; the state dict has `encoder_q.*` and `bank.embeddings_MC`.

    A step draws K different samples of the bank, the same for all its queries. Where a query's own sample is among
    them, it is left out of that query's negatives, which are then K - 1.

    Args:
        encoder, embedding_dim, temperature, split_groups: as `moco.contrast.MoCo`, and so are the errors.
        num_samples: M, samples to learn from.
        dictionary_size: K, 1 to M; M takes the whole bank at each step.
        bank_momentum: share of a stored embedding that stays when its sample comes by, 0 to 1.
        decoupled: leave the positive out of the loss's denominator (2110.06848); K is at least 2 then.
        batchnorm: "split" or "none"; "auto" is split on one process, as in MoCo, so that f_q is the same, and none on
            several. Keys are not encoded in a batch, so nothing can leak.

    Source: Wu et al. 2018 (1805.01978); He et al. 2020 (1911.05722), section 3.2.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        num_samples: int,
        dictionary_size: int,
        bank_momentum: float,
        decoupled: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        if not 0.0 <= bank_momentum <= 1.0:
            raise ValueError(f"bank_momentum={bank_momentum}: need a value from 0 (newest query) to 1 (never changes)")
        if not 1 <= dictionary_size <= num_samples:
            raise ValueError(f"dictionary_size={dictionary_size} with {num_samples} samples: need 1 to {num_samples}")
        if shared.get("similarity", "cosine") != "cosine":
            raise ValueError(f"similarity={shared['similarity']!r} with a memory bank of unit vectors: choose 'cosine'")
        cure = shared.get("batchnorm", "auto")
        if cure in ("shuffle", "average"):
            raise ValueError(f"batchnorm={cure!r} with a memory bank, which encodes no keys: choose 'auto'")
        if cure == "auto" and world_size() > 1:
            shared["batchnorm"] = "none"
        super().__init__(encoder, **shared)
        self.dictionary_size, self.bank_momentum, self.decoupled = dictionary_size, bank_momentum, decoupled
        self.bank = Bank(num_samples, self.embedding_dim)
        self._start_(training=encoder.training)

    def after_step_(self, *keys: tuple[Tensor, Tensor]) -> None:
        """As `ContrastiveModel.after_step_`: the bank remembers the queries of the step's samples."""
        super().after_step_()
        for indices_N, q_NC in keys:
            self.bank.update_(indices_N, q_NC, bank_momentum=self.bank_momentum)
