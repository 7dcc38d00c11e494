"""LARS as You, Gitman and Ginsburg 2017 (1708.03888) write it, tensor by tensor in NumPy."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class NaiveLars:
    """Local rate `trust` |w| / (|g| + decay |w|) for tensors of two and more dimensions; plain momentum SGD for others.

    As in PyTorch's SGD, the velocity sums gradients, and the rate of the step multiplies it.
    """

    def __init__(self, weights: list[Array], *, momentum: float, decay: float, trust: float = 0.001) -> None:
        self.weights = [weight.astype(np.float64) for weight in weights]
        self.velocities = [np.zeros_like(weight) for weight in self.weights]
        self.momentum, self.decay, self.trust = momentum, decay, trust

    def step(self, gradients: list[Array], rate: float) -> None:
        """One step at this learning rate."""
        for place, gradient in enumerate(gradients):
            weight, change = self.weights[place], gradient.astype(np.float64)
            if weight.ndim > 1:
                size, steepness = np.linalg.norm(weight), np.linalg.norm(change)
                local = self.trust * size / (steepness + self.decay * size) if size > 0 and steepness > 0 else 1.0
                change = local * (change + self.decay * weight)
            self.velocities[place] = self.momentum * self.velocities[place] + change
            self.weights[place] = weight - rate * self.velocities[place]
