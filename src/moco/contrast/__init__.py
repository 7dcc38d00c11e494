"""Momentum contrast itself: tensors and modules in, a loss out.

Nothing here knows of images, files, configurations or loggers, so text and reinforcement learning use it unchanged.
"""

from moco.contrast.algorithm import MoCo, moco_step, symmetric_moco_step
from moco.contrast.dictionary import Queue
from moco.contrast.loss import contrastive_logits, info_nce
from moco.contrast.momentum import ema_update_, frozen_copy

__all__ = [
    "MoCo",
    "Queue",
    "contrastive_logits",
    "ema_update_",
    "frozen_copy",
    "info_nce",
    "moco_step",
    "symmetric_moco_step",
]
