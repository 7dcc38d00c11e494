"""How large images, batches and heads are: the paper's figures for each schedule, and small ones for a CPU."""

from __future__ import annotations

import dataclasses

from moco.errors import ConfigError
from moco.transfer.fine_tuning.schedule import Schedule, named


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
# Ours: crops and batches for a CPU, the rate of the paper's Cityscapes runs. The sides are those of the crops.
SMALL_SEMANTIC = Scale(Schedule(500, 0, (350, 450), 0.01, batch_size=8), (128,), 128, 256, 0, 0, 50)
# Ours: surfaces bring losses that are sums over points, for which detectron2 has a tenth of the rate of detection. Of
# two rates that were tried on drawn persons (0.002 and this; docs/log.md, 2026-11-28) the one that found more of them.
SMALL_DENSEPOSE = dataclasses.replace(SMALL, schedule=dataclasses.replace(SMALL.schedule, learning_rate=0.006))
INSTANCES, SEMANTIC, LVIS, DENSEPOSE = "instance-segmentation", "semantic-segmentation", "lvis", "densepose"
CITYSCAPES = "cityscapes"  # both kinds of segmentation
# Of Cityscapes, by the name of its schedules: those of its tasks.
CITYSCAPES_SCHEDULES = {
    "small": {INSTANCES: "small", SEMANTIC: "small"},
    CITYSCAPES: {INSTANCES: "cityscapes-24k", SEMANTIC: "cityscapes-semantic-90k"},
}
_VOC, _COCO, _CITYSCAPES = tuple(range(480, 801, 32)), tuple(range(640, 801, 32)), tuple(range(800, 1025, 32))
_SIDES = {
    "paper-voc-24k": _VOC,
    "coco-1x": _COCO,
    "coco-2x": _COCO,
    "keypoints-2x": _COCO,
    "densepose-s1x": _COCO,
    "lvis-2x": _COCO,
    "cityscapes-24k": _CITYSCAPES,
}
_CROPS = {"voc-semantic-30k": 513, "cityscapes-semantic-90k": 769}  # 1911.05722, appendix
_LONGEST, _CITYSCAPES_LONGEST = 1333, 2048
NAMES = ("small", *_SIDES)
SEMANTIC_NAMES = ("small", *_CROPS)


def scale_of(name: str, task: str = "detection") -> Scale:
    """A scale by the name of its schedule and the task.

    Raises:
        ConfigError: there is none for this task.
    """
    known = SEMANTIC_NAMES if task == SEMANTIC else NAMES
    if name not in known:
        raise ConfigError(f"schedule={name!r} for {task}: choose one of {', '.join(known)}")
    if name == "small":
        return {SEMANTIC: SMALL_SEMANTIC, DENSEPOSE: SMALL_DENSEPOSE}.get(task, SMALL)
    if name in _CROPS:
        return Scale(named(name), (_CROPS[name],), _CROPS[name], 256, 0, 0, 200)
    longest = _CITYSCAPES_LONGEST if name == "cityscapes-24k" else _LONGEST
    return Scale(named(name), _SIDES[name], longest, 256, 512, 1000, 200)
