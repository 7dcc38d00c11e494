"""How often a run is evaluated: as often as was asked, or as often as it costs little beside the training.

What is known of it lies among a run's newest values, in seconds, so that a checkpoint has it: `monitor_seconds` spent
so far, `curve_seconds` of the next evaluation while training as far as one can tell, and `final_seconds` of the one at
the end.
"""

from __future__ import annotations

from moco.config import Config

SHARE = 0.03  # of the training time, for everything that the monitor does
MOST = 10


def evaluations(config: Config) -> int:
    """How many evaluations while training there are at most."""
    return MOST if config.knn_evaluations == "auto" else config.knn_evaluations


def affordable(config: Config, last: dict[str, float], training_seconds: float) -> bool:
    """Whether an evaluation may be made after so many seconds of training; a stated number is always made.

    What was spent, this evaluation and the one at the end together have to stay below SHARE of the training so far.
    Training goes on, so that a run in which any evaluation was made ends below it too.
    """
    if config.knn_evaluations != "auto":
        return True
    ahead = last.get("curve_seconds", 0.0) + last.get("final_seconds", 0.0)
    return last.get("monitor_seconds", 0.0) + ahead <= SHARE * training_seconds


def spend(last: dict[str, float], seconds: float) -> None:
    """Note what an evaluation while training has taken; the next one is expected to take the same."""
    for name in ("evaluation_seconds", "monitor_seconds"):
        last[name] = last.get(name, 0.0) + seconds
    last["curve_seconds"] = seconds


def leave_out(last: dict[str, float]) -> None:
    """Note that an evaluation was not made."""
    last["evaluations_left_out"] = last.get("evaluations_left_out", 0) + 1
