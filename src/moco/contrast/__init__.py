"""Momentum contrast itself: tensors and modules in, a loss out.

Nothing here knows of images, files, configurations or loggers, so text and reinforcement learning use it unchanged.

- A model and its step: `MoCo` with `moco_step` or `symmetric_moco_step`; `EndToEnd`, `MemoryBank`, `MoCoV3` alike.
- The two halves of a step, for loops of one's own: `moco_loss` and the like give `LossAndKeys`; `model.after_step_`.
- Losses of embeddings alone: `info_nce`, `scored_info_nce` (with the pretext accuracy), `in_batch_info_nce`.
- Similarity beside cosine: embeddings as they are (dot), or `Bilinear` on the query's side. `temperature=1.0` is none.
  CURL: `in_batch_info_nce(bilinear(q_NC), k_NC, temperature=1.0)` with `bilinear = Bilinear(50)`.
- The key encoder of a model of one's own: `frozen_copy`, `ema_update_`; the dictionary: `Queue`, `Bank`.
"""

from moco.contrast.algorithm import MoCo, moco_loss, moco_step, symmetric_moco_loss, symmetric_moco_step
from moco.contrast.dictionary import Bank, Queue
from moco.contrast.end_to_end import EndToEnd, end_to_end_loss, end_to_end_step
from moco.contrast.loss import contrastive_logits, in_batch_info_nce, info_nce, scored_info_nce
from moco.contrast.memory_bank import MemoryBank, memory_bank_loss, memory_bank_step
from moco.contrast.model import ContrastiveModel, LossAndKeys
from moco.contrast.momentum import ema_update_, frozen_copy
from moco.contrast.similarity import Bilinear
from moco.contrast.v3 import MoCoV3, moco_v3_loss, moco_v3_step

__all__ = [
    "Bank",
    "Bilinear",
    "ContrastiveModel",
    "EndToEnd",
    "LossAndKeys",
    "MemoryBank",
    "MoCo",
    "MoCoV3",
    "Queue",
    "contrastive_logits",
    "ema_update_",
    "end_to_end_loss",
    "end_to_end_step",
    "frozen_copy",
    "in_batch_info_nce",
    "info_nce",
    "memory_bank_loss",
    "memory_bank_step",
    "moco_loss",
    "moco_step",
    "moco_v3_loss",
    "moco_v3_step",
    "scored_info_nce",
    "symmetric_moco_loss",
    "symmetric_moco_step",
]
