"""How much a run is evaluated: as was asked, or as costs little beside the training.

How many images are taken follows from the configuration alone, so that equal runs are judged by equal images; how often
follows from the time that it takes. What is known of that lies among a run's newest values, in seconds, so that a
checkpoint has it: `monitor_seconds` spent so far, `curve_seconds` of the next evaluation while training as far as one
can tell, and `final_seconds` of the one at the end.
"""

from __future__ import annotations

from moco.config import Config

SHARE = 0.03  # of the training time, for everything that the monitor does
MOST = 10
FIGURES = 0.03  # of the encoder's passes while training, for both figures; they take about half of that share in time
FEWEST = 1_000  # images; the figure from fewer says little, however short the run
# Forward passes that the training with one image amounts to, a backward pass counting as two: query and key.
PASSES = {"moco": 3 + 1, "memory-bank": 3, "end-to-end": 3 + 3, "moco-v3": 3 + 1}


def figure_images(config: Config, total_steps: int) -> int:
    """How many labelled images the figures before and after training are taken from at most."""
    if config.knn_images != "auto":
        return config.knn_images
    passes = PASSES[config.mechanism] * (2 if config.symmetric else 1)
    return max(FEWEST, 2 * config.num_neighbors, int(FIGURES * passes * total_steps * config.batch_size_per_rank / 2))


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
