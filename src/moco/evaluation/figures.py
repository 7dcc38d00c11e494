"""From what a network answered to a figure, its interval, and its difference from another network's.

M: test images   C: classes
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from moco.evaluation.report import Difference, Range, Row
from moco.evaluation.verdict import Outcome

_TAIL = (1 - 0.95) / 2  # on either side of an interval
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
        values = tuple(figure(answer, targets) for answer in self.answers)
        if targets.ndim == 1:
            interval = wilson(statistics.fmean(values), len(targets))
        else:
            interval = bootstrap(lambda at: self._mean(targets, at), len(targets), resamples=_RESAMPLES_OF_MAP)
        return Row(self.network, self.measure, self.inputs, values, interval, self.how, self.label_fraction)

    def less(self, other: Answers, targets: Tensor) -> Difference:
        """This figure less the other's, with the paired bootstrap interval over test images."""

        def gain(at: np.ndarray) -> float:
            return self._mean(targets, at) - other._mean(targets, at)

        resamples = _RESAMPLES if targets.ndim == 1 else _RESAMPLES_OF_MAP
        interval = bootstrap(gain, len(targets), resamples=resamples)
        everywhere = gain(np.arange(len(targets)))
        return Difference(self.measure, self.inputs, self.label_fraction, other.network, everywhere, interval)

    def _mean(self, targets: Tensor, at: np.ndarray) -> float:
        """Mean over the seeds of the figure on the test images at these positions."""
        chosen = torch.from_numpy(at)
        return statistics.fmean(figure(answer[chosen], targets[chosen]) for answer in self.answers)


def figure(answer: Tensor, targets: Tensor) -> float:
    """Top-1 accuracy of classes (M,), or mean average precision of scores (M, C); 0 to 1.

    The mean is over the classes that at least one image has; NaN where there is none.
    """
    if targets.ndim == 1:
        return (answer == targets).double().mean().item()
    return average_precision(answer, targets).nanmean().item()


def average_precision(scores_MC: Tensor, targets_MC: Tensor) -> Tensor:
    """Average precision of each class, (C,) float64 in [0, 1]; NaN for a class that no image has.

    Images are ranked by score; the mean, over the images that have the class, of the precision down to and including
    the last image of an equal score. The area under the precision-recall curve without interpolation. `targets_MC`:
    1 where the image has the class, else 0.
    """
    order_MC = scores_MC.argsort(dim=0, descending=True, stable=True)
    ranked_MC = scores_MC.gather(0, order_MC)
    hits_MC = targets_MC.double().gather(0, order_MC)
    found_MC = hits_MC.cumsum(dim=0)
    precision_MC = found_MC / torch.arange(1, len(hits_MC) + 1, dtype=torch.float64)[:, None]
    is_end_MC = torch.ones_like(ranked_MC, dtype=torch.bool)  # the last rank with its score
    is_end_MC[:-1] = ranked_MC[1:] != ranked_MC[:-1]
    ends_MC = (
        torch.where(is_end_MC, torch.arange(len(hits_MC))[:, None], len(hits_MC) - 1)
        .flip(0)
        .cummin(dim=0)
        .values.flip(0)
    )
    return (hits_MC * precision_MC.gather(0, ends_MC)).sum(dim=0) / found_MC[-1]


def wilson(share: float, count: int) -> Range:
    """95 % interval for the accuracy `share` on `count` images (Wilson 1927); within 0 to 1 even at the ends."""
    z = statistics.NormalDist().inv_cdf(1 - _TAIL)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def outcome(share: float, other: float, count: int) -> Outcome:
    """How one accuracy stands to another on `count` images, by the 95 % interval of their difference.

    The interval is Newcombe's (1998, method 10), from Wilson's of both. It takes the images for two samples; that they
    are the same ones would narrow it in most cases.
    """
    (low, high), (other_low, other_high) = wilson(share, count), wilson(other, count)
    difference = share - other
    if difference - math.hypot(share - low, other_high - other) > 0:
        return "better"
    return "worse" if difference + math.hypot(high - share, other - other_low) < 0 else "undecided"


def bootstrap(value: Callable[[np.ndarray], float], count: int, *, resamples: int) -> Range:
    """95 % percentile interval of `value`, which takes indices of test images, with repetitions (Efron 1979).

    A difference between two networks on the same indices gives the paired interval. NaN is left out.
    """
    generator = np.random.default_rng(0)
    values = [value(generator.integers(0, count, count)) for _ in range(resamples)]
    low, high = np.nanquantile(values, [_TAIL, 1 - _TAIL])
    return float(low), float(high)
