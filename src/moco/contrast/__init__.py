"""Momentum contrast itself: tensors and modules in, a loss out.

Nothing here knows of images, files, configurations or loggers, so text and reinforcement learning use it unchanged.

- A model and its step: `MoCo` with `moco_step` or `symmetric_moco_step`; `EndToEnd`, `MemoryBank`, `MoCoV3` alike.
- Other negatives (queue, batch, both, none) and ids of samples: `contrast_step`; two kinds of input: `TwoTowers`.
- The two halves of a step, for loops of one's own: `moco_loss` and the like give `LossAndKeys`; `model.after_step_`.
- Losses of embeddings alone: `info_nce`, `scored_info_nce` (with the pretext accuracy), `in_batch_info_nce`.
- Similarity beside cosine: embeddings as they are (dot), or `Bilinear` on the query's side. `temperature=1.0` is none.
  In a model: `MoCo(..., similarity="dot")`, `MoCo(..., temperature=LearnedTemperature(0.07))`.
  CURL: `in_batch_info_nce(bilinear(q_NC), k_NC, temperature=1.0)` with `bilinear = Bilinear(50)`.
- Schedules: `model.key_momentum` and `model.temperature` may be set before any step, by `half_cosine` for one.
- The key encoder of a model of one's own: `frozen_copy`, `ema_update_`; the dictionary: `Queue`, `Bank`.
"""

from moco.contrast.algorithm import MoCo, moco_loss, moco_step, symmetric_moco_loss, symmetric_moco_step
from moco.contrast.chosen_negatives import contrast_loss, contrast_step
from moco.contrast.chunks import InChunks
from moco.contrast.dictionary import Bank, Queue
from moco.contrast.end_to_end import EndToEnd, end_to_end_loss, end_to_end_step
from moco.contrast.loss import contrastive_logits, in_batch_info_nce, info_nce, scored_info_nce
from moco.contrast.memory_bank import MemoryBank, memory_bank_loss, memory_bank_step
from moco.contrast.model import ContrastiveModel, LossAndKeys
from moco.contrast.momentum import ema_update_, frozen_copy
from moco.contrast.schedule import half_cosine
from moco.contrast.similarity import Bilinear, LearnedTemperature
from moco.contrast.two_towers import TwoTowers, two_towers_loss, two_towers_step
from moco.contrast.v3 import MoCoV3, moco_v3_loss, moco_v3_step
from moco.contrast.variants import MoCoVariant, variant_loss, variant_step

__all__ = [
    "Bank",
    "Bilinear",
    "ContrastiveModel",
    "EndToEnd",
    "InChunks",
    "LearnedTemperature",
    "LossAndKeys",
    "MemoryBank",
    "MoCo",
    "MoCoV3",
    "MoCoVariant",
    "Queue",
    "TwoTowers",
    "contrast_loss",
    "contrast_step",
    "contrastive_logits",
    "ema_update_",
    "end_to_end_loss",
    "end_to_end_step",
    "frozen_copy",
    "half_cosine",
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
    "two_towers_loss",
    "two_towers_step",
    "variant_loss",
    "variant_step",
]
