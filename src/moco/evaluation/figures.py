"""From what a network answered to a figure, its interval, and its difference from another network's.

M: test images   C: classes
"""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
import torch
from torch import Tensor

from moco.evaluation.intervals import bootstrap, wilson
from moco.evaluation.precision import mean_average_precision
from moco.evaluation.report import Difference, Row

_RESAMPLES, _RESAMPLES_OF_MAP = 500, 200  # mAP sorts the scores of all classes anew at each


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one network answered, one entry for each seed: (M,) class numbers for one label an image, (M, C) scores for
    several. The other attributes are those of `Row`.
    """

    answers: list[Tensor]
    network: str
    measure: str
    inputs: str
    how: str
    label_fraction: float = 1.0

    def row(self, targets: Tensor) -> Row:
        """Figure and interval: Wilson's for top-1, bootstrap for mAP."""
        values = tuple(_figure(answer, targets) for answer in self.answers)
        if targets.ndim == 1:
            interval = wilson(statistics.fmean(values), len(targets))
        else:
            interval = bootstrap(lambda at: self.figure(targets, at), len(targets), resamples=_RESAMPLES_OF_MAP)
        return Row(self.network, self.measure, self.inputs, values, interval, self.how, self.label_fraction)

    def figure(self, targets: Tensor, at: np.ndarray) -> float:
        """Mean over the seeds of the figure on the test images at these positions."""
        chosen = torch.from_numpy(at)
        return statistics.fmean(_figure(answer[chosen], targets[chosen]) for answer in self.answers)


def difference(run: Answers, other: Answers, targets: Tensor) -> Difference:
    """The run's figure less the other's, with the paired bootstrap interval over test images."""

    def gain(at: np.ndarray) -> float:
        return run.figure(targets, at) - other.figure(targets, at)

    resamples = _RESAMPLES if targets.ndim == 1 else _RESAMPLES_OF_MAP
    interval = bootstrap(gain, len(targets), resamples=resamples)
    everywhere = gain(np.arange(len(targets)))
    return Difference(run.measure, run.inputs, run.label_fraction, other.network, everywhere, interval)


def _figure(answer: Tensor, targets: Tensor) -> float:
    if targets.ndim == 1:
        return (answer == targets).double().mean().item()
    return mean_average_precision(answer, targets)
