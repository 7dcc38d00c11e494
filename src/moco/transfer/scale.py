"""How large images, batches and heads are: the paper's figures for each schedule, and small ones for a CPU."""

from __future__ import annotations

import dataclasses

from moco.errors import ConfigError
from moco.transfer.schedule import Schedule, named


@dataclasses.dataclass(frozen=True)
class Scale:
    """A schedule with what belongs to it.

    Attributes:
        schedule: iterations, learning rates, batch size.
        sides: shorter sides of train images, of which each draws one; the test images have the last.
        longest: the longer side is at most this.
        width: channels of the feature pyramid; the box head's layers are four times as wide.
        rois: regions an image that the box head learns from.
        proposals: kept of an image.
        precise: batches that BatchNorm's statistics are measured on before a test.
    """

    schedule: Schedule
    sides: tuple[int, ...]
    longest: int
    width: int
    rois: int
    proposals: int
    precise: int


# Ours: a run of a quarter of an hour with a ResNet-18 on one core. The learning rate is four times the paper's for this
# batch, as there are few iterations; random weights learn BCCD with it (docs/log.md, 2026-11-28). Not tuned.
SMALL = Scale(Schedule(1000, 100, (750, 900), 0.02, batch_size=4), (128,), 256, 64, 64, 200, 50)
_VOC, _COCO = tuple(range(480, 801, 32)), (640, 672, 704, 736, 768, 800)
_SIDES = {"paper-voc-24k": _VOC, "coco-1x": _COCO, "coco-2x": _COCO, "keypoints-2x": _COCO}
NAMES = ("small", *_SIDES)


def scale_of(name: str) -> Scale:
    """A scale by the name of its schedule.

    Raises:
        ConfigError: there is none for detection.
    """
    if name == "small":
        return SMALL
    if name not in _SIDES:
        raise ConfigError(f"schedule={name!r}: choose one of {', '.join(NAMES)}")
    return Scale(named(name), _SIDES[name], 1333, 256, 512, 1000, 200)
