"""What the rules know of images, machine and time, and what they answer."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules know.

    Attributes:
        images: how many are learnt from.
        side: median of their shorter sides, pixels.
        grey: whether all images of a sample are grey.
        gpu: whether the run computes on an accelerator.
        cores: processor cores.
        memory: bytes of the device.
        budget: seconds for everything, from the start of the command.
    """

    images: int
    side: int
    grey: bool
    gpu: bool
    cores: int
    memory: float
    budget: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """What has been measured before the length is decided, in seconds.

    Attributes:
        step: a step.
        start: all that comes before the first step and after the last, evaluations left out.
        evaluation: an evaluation of one image.
        curve, whole: images of an evaluation while training, and of those before and after it; 0 without labels.
        wholes: evaluations before and after training: one more where the run starts from trained weights.
    """

    step: float
    start: float
    evaluation: float = 0.0
    curve: int = 0
    whole: int = 0
    wholes: int = 2


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row of the table: what, value, why."""

    what: str
    value: Any
    why: str
