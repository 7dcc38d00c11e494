"""Learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from moco.config import Config
from moco.contrast import half_cosine


def run_length(config: Config, steps_per_epoch: int) -> int:
    """Optimiser steps in the whole run."""
    return config.steps or (config.epochs or 0) * steps_per_epoch


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step of the run, counted from 0."""
    return config.learning_rate * learning_rate_factor(
        step,
        total_steps=run_length(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        schedule=config.schedule,
        unit=config.schedule_unit,
        warmup_steps=config.warmup_steps or config.warmup_epochs * steps_per_epoch,
        milestones=config.lr_milestones,
        decay=config.lr_decay,
    )


def learning_rate_factor(
    step: int,
    *,
    total_steps: int,
    steps_per_epoch: int,
    schedule: Literal["cosine", "step", "constant"],
    unit: Literal["epoch", "step"],
    warmup_steps: int = 0,
    milestones: Sequence[float] = (),
    decay: float = 0.1,
) -> float:
    """Factor in 0..1 on the learning rate at `step` (from 0).

    "cosine": half a cosine from 1 to 0 over the run after warm-up. "step": times `decay` at each milestone (a share
    of the run). "constant": 1. With unit "epoch" the factor holds for a whole epoch, as in the papers. Warm-up is
    linear, by step: step s of w runs at (s + 1) / w.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done, length = step - warmup_steps, total_steps - warmup_steps
    if unit == "epoch":
        done, length = step // steps_per_epoch, max(1, math.ceil(total_steps / steps_per_epoch))
    progress = done / length
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return decay ** sum(progress >= milestone for milestone in milestones)


def late_start_factor(step: int, start: int) -> float:
    """Factor in 0..1 for what learns from step `start` on: 0 before it, then rising to 1 over as many steps."""
    return 1.0 if not start else min(1.0, max(0, step + 1 - start) / start)


def key_momentum_at(step: int, *, total_steps: int, start: float) -> float:
    """m at `step` (from 0): from `start` to 1 along half a cosine over the run, step by step (2104.02057)."""
    return half_cosine(step, total_steps, start=start, end=1.0)


def spaced_steps(total_steps: int, count: int) -> set[int]:
    """`count` evenly spaced steps, the last at the end."""
    return {math.ceil(total_steps * (i + 1) / count) for i in range(count)}
