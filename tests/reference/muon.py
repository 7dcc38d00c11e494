"""Muon's step of one weight, as it is written down: Newton and Schulz's iteration on the matrix itself, in float64."""

from __future__ import annotations

import numpy as np


class NaiveMuon:
    """Momentum as a running mean, Nesterov's form, orthogonalised, with the root mean square of 0.2 of AdamW.

    The weight keeps its length, less what weight decay takes of it.
    """

    def __init__(self, weight: np.ndarray, *, momentum: float, decay: float) -> None:
        self.weight, self.mean = weight.copy(), np.zeros_like(weight)
        self.momentum, self.decay, self.length = momentum, decay, np.sqrt((weight**2).sum())

    def step(self, gradient: np.ndarray, rate: float) -> None:
        self.mean = self.momentum * self.mean + (1 - self.momentum) * gradient
        ahead = self.momentum * self.mean + (1 - self.momentum) * gradient
        x = ahead.reshape(len(ahead), -1)
        x = x / np.sqrt((x**2).sum())
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
        scale = 0.2 * max(x.shape) ** 0.5
        self.length *= 1 - rate * self.decay
        moved = (1 - rate * self.decay) * self.weight - rate * scale * x.reshape(self.weight.shape)
        self.weight = moved * self.length / np.sqrt((moved**2).sum())
