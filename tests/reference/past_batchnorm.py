"""BatchNorm by averages of its own earlier batches, one channel after the other, in plain Python and float64."""

from __future__ import annotations

import math
import statistics


class PastBatchNormReference:
    """For inputs (N, C) as lists of rows, without scale and shift.

    `momentum`: the least share of a new step in the averages; None for an average of all.
    """

    def __init__(self, channels: int, *, momentum: float | None, eps: float) -> None:
        self.means, self.variances = [0.0] * channels, [1.0] * channels
        self.momentum, self.eps, self.steps = momentum, eps, 0
        self.passes: list[list[tuple[float, float]]] = []

    def forward(self, rows: list[list[float]], *, training: bool) -> list[list[float]]:
        """The rows by the averages of earlier steps; by their own in a first step."""
        columns = list(zip(*rows, strict=True))
        own = [(statistics.fmean(column), statistics.variance(column)) for column in columns]
        used = list(zip(self.means, self.variances, strict=True))
        if training:
            self.passes.append(own)
            used = own if self.steps == 0 else used
        return [
            [(value - mean) / math.sqrt(variance + self.eps) for value, (mean, variance) in zip(row, used, strict=True)]
            for row in rows
        ]

    def absorb(self) -> None:
        """The end of a step: the mean over its passes enters the averages."""
        if not self.passes:
            return
        self.steps += 1
        share = 1 / self.steps if self.momentum is None else max(self.momentum, 1 / self.steps)
        for channel in range(len(self.means)):
            mean = statistics.fmean(own[channel][0] for own in self.passes)
            variance = statistics.fmean(own[channel][1] for own in self.passes)
            self.means[channel] += share * (mean - self.means[channel])
            self.variances[channel] += share * (variance - self.variances[channel])
        self.passes = []
