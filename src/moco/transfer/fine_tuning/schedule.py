"""Learning rate over the iterations of a fine-tuning: linear warm-up, then times 0.1 at each decay point.

The named schedules are those of the paper (He et al., 1911.05722) and of the detectron2 configurations that it used.
"""

from __future__ import annotations

import dataclasses
import difflib
import math

from moco.errors import ConfigError

DECAY = 0.1  # at each milestone
WARMUP_FROM = 1e-3  # of the learning rate, at iteration 0 (detectron2's SOLVER.WARMUP_FACTOR)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a fine-tuning takes, and its learning rate at each iteration.

    Attributes:
        iterations: optimiser steps, at least 1.
        warmup: iterations in which the learning rate rises linearly from a thousandth; 0 for none.
        milestones: iterations from which the learning rate is a tenth of what it was before, in rising order.
        learning_rate: at the end of the warm-up, for batches of `batch_size`.
        batch_size: images an iteration, over all ranks.
        weight_decay: of all weights.
        source: where the figures are stated; empty for a schedule of the user's.

    Raises:
        ConfigError: a figure out of its range.
    """

    iterations: int
    warmup: int
    milestones: tuple[int, ...]
    learning_rate: float
    batch_size: int = 16
    weight_decay: float = 1e-4
    source: str = ""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"iterations={self.iterations}: need at least 1")
        if not 0 <= self.warmup <= self.iterations:
            raise ConfigError(f"warmup={self.warmup}: expected 0 to {self.iterations}, the iterations in all")
        rising = list(self.milestones) == sorted(self.milestones)
        if not rising or any(not 0 <= milestone <= self.iterations for milestone in self.milestones):
            raise ConfigError(f"milestones={self.milestones}: expected rising numbers from 0 to {self.iterations}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate={self.learning_rate}: need a number above 0")
        if self.batch_size < 1 or self.weight_decay < 0:
            least = "need a batch of at least 1 and a decay of at least 0"
            raise ConfigError(f"batch_size={self.batch_size}, weight_decay={self.weight_decay}: {least}")

    def learning_rate_at(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0; warm-up and decay are two factors, as in detectron2."""
        done = 1.0 if iteration >= self.warmup else iteration / self.warmup
        warmup = WARMUP_FROM * (1 - done) + done
        return self.learning_rate * warmup * DECAY ** sum(iteration >= milestone for milestone in self.milestones)

    def scaled(self, iterations: int) -> Schedule:
        """The same shape over another number of iterations: warm-up and decay points keep their share of the whole."""
        if iterations < 1:
            raise ConfigError(f"iterations={iterations}: need at least 1")
        share = iterations / self.iterations
        return dataclasses.replace(
            self,
            iterations=iterations,
            warmup=round(self.warmup * share),
            milestones=tuple(round(milestone * share) for milestone in self.milestones),
        )

    def for_batch(self, batch_size: int) -> Schedule:
        """For batches of another size: the learning rate in proportion (Goyal et al., 1706.02677), the same length."""
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: need at least 1")
        rate = self.learning_rate * batch_size / self.batch_size
        return dataclasses.replace(self, batch_size=batch_size, learning_rate=rate)


_VOC = "moco detection/configs/pascal_voc_R_50_C4_24k.yaml; 1911.05722 section 4.2.1"
_COCO_1X = "detectron2 configs/Base-RCNN-FPN.yaml, its 1x; 1911.05722 section 4.2.2"
_COCO_2X = "moco detection/configs/coco_R_50_C4_2x.yaml; 1911.05722 section 4.2.2"
_KEYPOINTS = "1911.05722 section 4.2.3: the 2x schedule of COCO on person keypoints"
_DENSEPOSE = "detectron2 projects/DensePose/configs/densepose_rcnn_R_50_FPN_s1x_legacy.yaml"
_LVIS = "1911.05722 section 4.2.3: the 2x schedule of COCO on LVIS v0.5"
_CITYSCAPES = "detectron2 configs/Cityscapes/mask_rcnn_R_50_FPN.yaml"
_SEMANTIC = "1911.05722 appendix: decay at the 70th and 90th percentile of training, no warm-up stated"

_NAMED = {
    "paper-voc-24k": Schedule(24_000, 100, (18_000, 22_000), 0.02, source=_VOC),
    "coco-1x": Schedule(90_000, 1_000, (60_000, 80_000), 0.02, source=_COCO_1X),
    "coco-2x": Schedule(180_000, 1_000, (120_000, 160_000), 0.02, source=_COCO_2X),
    "keypoints-2x": Schedule(180_000, 1_000, (120_000, 160_000), 0.02, source=_KEYPOINTS),
    "densepose-s1x": Schedule(130_000, 1_000, (100_000, 120_000), 0.002, source=_DENSEPOSE),
    "lvis-2x": Schedule(180_000, 1_000, (120_000, 160_000), 0.02, source=_LVIS),
    "cityscapes-24k": Schedule(24_000, 1_000, (18_000,), 0.01, batch_size=8, source=_CITYSCAPES),
    "voc-semantic-30k": Schedule(30_000, 0, (21_000, 27_000), 0.003, source=_SEMANTIC),
    "cityscapes-semantic-90k": Schedule(90_000, 0, (63_000, 81_000), 0.01, source=_SEMANTIC),
}
NAMES = tuple(_NAMED)


def named(name: str) -> Schedule:
    """The schedule of this name, one of `NAMES`.

    Raises:
        ConfigError: there is none.
    """
    if name not in _NAMED:
        nearest = difflib.get_close_matches(name, NAMES, n=1)
        advice = f"nearest: {nearest[0]}" if nearest else f"expected one of {', '.join(NAMES)}"
        raise ConfigError(f"unknown schedule {name!r}; {advice}")
    return _NAMED[name]
