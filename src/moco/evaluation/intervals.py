"""How far a figure on a finite test set can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 500
Range = tuple[float, float]


def wilson(share: float, count: int, *, confidence: float = CONFIDENCE) -> Range:
    """Interval for the accuracy `share` measured on `count` images (Wilson 1927); within 0 to 1 even at the ends.

    Raises:
        ValueError: a share outside 0 to 1, or no image.
    """
    if not 0 <= share <= 1 or count < 1:
        raise ValueError(f"share={share} of count={count}: expected 0 to 1 of at least 1")
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    figure: Callable[[np.ndarray], float],
    count: int,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Range:
    """Percentile interval of `figure`, which takes indices of test images (with repetitions) (Efron 1979).

    A figure that is a difference between two networks on the same indices gives the paired interval.
    """
    generator = np.random.default_rng(seed)
    values = [figure(generator.integers(0, count, count)) for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
