"""A value that changes over a run, for `model.key_momentum` and `model.temperature`, set anew before a step."""

from __future__ import annotations

import math


def half_cosine(step: int, total_steps: int, *, start: float, end: float) -> float:
    """From `start` at step 0 to `end` at `total_steps` along half a cosine, and `end` from there on.

    MoCo v3's momentum is `half_cosine(step, total_steps, start=0.99, end=1.0)` (2104.02057).

    Raises:
        ValueError: fewer than one step in all, or a step before the first.
    """
    if total_steps < 1 or step < 0:
        raise ValueError(f"step {step} of {total_steps}: need at least 1 step in all, and one from 0 on")
    left = 0.5 * (1.0 + math.cos(math.pi * min(step, total_steps) / total_steps))
    return end + (start - end) * left
