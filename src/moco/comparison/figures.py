"""From what a network answered to a figure, its interval, and its difference from another network's.

M: test images   C: classes   S: seeds
"""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
import torch
from torch import Tensor

from moco.comparison.report import Difference, Range, Row
from moco.evaluation.intervals import bootstrap, wilson
from moco.evaluation.precision import mean_average_precision

_RESAMPLES_OF_MAP = 200  # each sorts the scores of all classes anew


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one network answered, one entry for each seed.

    Attributes:
        answers: (M,) class numbers for one label an image, (M, C) scores for several.
        network, measure, inputs, how, label_fraction: see `Row`.
    """

    answers: list[Tensor]
    network: str
    measure: str
    inputs: str
    how: str
    label_fraction: float = 1.0

    def row(self, targets: Tensor) -> Row:
        """Figure and interval: Wilson's for top-1, bootstrap for mAP."""
        count = len(targets)
        everything = np.arange(count)
        values = tuple(_figure(answer, targets, everything) for answer in self.answers)
        interval: Range
        if targets.ndim == 1:
            interval = wilson(statistics.fmean(values), count)
        else:
            interval = bootstrap(lambda at: self.figure(targets, at), count, resamples=_RESAMPLES_OF_MAP)
        return Row(self.network, self.measure, self.inputs, values, interval, self.how, self.label_fraction)

    def figure(self, targets: Tensor, at: np.ndarray) -> float:
        """Mean over the seeds of the figure on the test images at these positions."""
        return statistics.fmean(_figure(answer, targets, at) for answer in self.answers)

    def correct(self, targets: Tensor) -> np.ndarray:
        """Share of the seeds that are right on each image, (M,), for one label an image."""
        right: np.ndarray = np.mean([(answer == targets).double().numpy() for answer in self.answers], axis=0)
        return right


def difference(run: Answers, other: Answers, targets: Tensor) -> Difference:
    """The run's figure less the other's, with the paired bootstrap interval over test images."""
    count, everything = len(targets), np.arange(len(targets))
    if targets.ndim == 1:
        gain = run.correct(targets) - other.correct(targets)
        interval = bootstrap(lambda at: float(gain[at].mean()), count)
        value = float(gain.mean())
    else:
        interval = bootstrap(
            lambda at: run.figure(targets, at) - other.figure(targets, at), count, resamples=_RESAMPLES_OF_MAP
        )
        value = run.figure(targets, everything) - other.figure(targets, everything)
    return Difference(run.measure, run.inputs, run.label_fraction, other.network, value, interval)


def _figure(answer: Tensor, targets: Tensor, at: np.ndarray) -> float:
    chosen = torch.from_numpy(at)
    if targets.ndim == 1:
        return (answer[chosen] == targets[chosen]).double().mean().item()
    return mean_average_precision(answer[chosen], targets[chosen])
