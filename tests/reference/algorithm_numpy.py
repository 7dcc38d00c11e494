"""Algorithm 1 of He et al. (CVPR 2020) in NumPy, with the gradients written by hand.

The encoder is linear - ReLU - linear; the optimiser is SGD with momentum and weight decay.
N: samples   C: embedding width   K: keys in the dictionary
"""

from __future__ import annotations

import dataclasses

import numpy as np

Weights = dict[str, np.ndarray]  # named as in torch's nn.Sequential(Linear, ReLU, Linear)


def encode(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Embeddings (N, C), not normalised."""
    hidden = np.maximum(x @ weights["0.weight"].T + weights["0.bias"], 0)
    return hidden @ weights["2.weight"].T + weights["2.bias"]


def encode_gradient(weights: Weights, x: np.ndarray, grad_NC: np.ndarray) -> Weights:
    """Gradient of the weights, from the gradient of the embeddings."""
    before = x @ weights["0.weight"].T + weights["0.bias"]
    hidden = np.maximum(before, 0)
    grad_before = (grad_NC @ weights["2.weight"]) * (before > 0)
    return {
        "0.weight": grad_before.T @ x,
        "0.bias": grad_before.sum(axis=0),
        "2.weight": grad_NC.T @ hidden,
        "2.bias": grad_NC.sum(axis=0),
    }


def unit(z_NC: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return z_NC / np.linalg.norm(z_NC, axis=1, keepdims=True)


def unit_gradient(z_NC: np.ndarray, grad_NC: np.ndarray) -> np.ndarray:
    """Gradient through `unit`: the part along the row vanishes."""
    u_NC = unit(z_NC)
    along = (grad_NC * u_NC).sum(axis=1, keepdims=True)
    return (grad_NC - along * u_NC) / np.linalg.norm(z_NC, axis=1, keepdims=True)


@dataclasses.dataclass
class NumpyMoCo:
    """State of the algorithm, float64."""

    f_q: Weights
    queue_KC: np.ndarray
    temperature: float
    key_momentum: float
    lr: float
    sgd_momentum: float
    weight_decay: float
    pointer: int = 0

    def __post_init__(self) -> None:
        self.f_q = {name: value.astype(np.float64) for name, value in self.f_q.items()}
        self.f_k = {name: value.copy() for name, value in self.f_q.items()}
        self.queue_KC = self.queue_KC.astype(np.float64)
        self.velocity: Weights = {}

    def step(self, x_q: np.ndarray, x_k: np.ndarray) -> tuple[float, np.ndarray]:
        """One iteration of Algorithm 1: loss and logits (N, 1 + K), computed before anything moves."""
        k_NC = unit(encode(self.f_k, x_k))
        loss, logits, gradient = self._loss(x_q, k_NC)
        self._sgd(gradient)
        self._momentum_update()
        self._enqueue(k_NC)
        return loss, logits

    def symmetric_step(self, x_1: np.ndarray, x_2: np.ndarray) -> float:
        """Both views as query and as key; the sum of both losses; the keys of view 1, then of view 2, are enqueued."""
        k_1, k_2 = unit(encode(self.f_k, x_1)), unit(encode(self.f_k, x_2))
        loss_1, _, gradient_1 = self._loss(x_1, k_2)
        loss_2, _, gradient_2 = self._loss(x_2, k_1)
        self._sgd({name: gradient_1[name] + gradient_2[name] for name in gradient_1})
        self._momentum_update()
        self._enqueue(np.concatenate([k_1, k_2]))
        return loss_1 + loss_2

    def _loss(self, x_q: np.ndarray, k_NC: np.ndarray) -> tuple[float, np.ndarray, Weights]:
        z_NC = encode(self.f_q, x_q)
        q_NC = unit(z_NC)
        positive = (q_NC * k_NC).sum(axis=1, keepdims=True)
        logits = np.concatenate([positive, q_NC @ self.queue_KC.T], axis=1) / self.temperature
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax = odds / odds.sum(axis=1, keepdims=True)
        loss = -np.log(softmax[:, 0]).mean()
        grad_logits = softmax.copy()
        grad_logits[:, 0] -= 1
        grad_logits /= len(x_q) * self.temperature
        grad_q = grad_logits[:, :1] * k_NC + grad_logits[:, 1:] @ self.queue_KC
        return float(loss), logits, encode_gradient(self.f_q, x_q, unit_gradient(z_NC, grad_q))

    def _sgd(self, gradient: Weights) -> None:
        for name, weight in self.f_q.items():
            step = gradient[name] + self.weight_decay * weight
            if name in self.velocity:
                step = self.sgd_momentum * self.velocity[name] + step
            self.velocity[name] = step
            self.f_q[name] = weight - self.lr * step

    def _momentum_update(self) -> None:
        for name, weight in self.f_q.items():
            self.f_k[name] = self.key_momentum * self.f_k[name] + (1 - self.key_momentum) * weight

    def _enqueue(self, keys_NC: np.ndarray) -> None:
        for key in keys_NC:
            self.queue_KC[self.pointer] = key
            self.pointer = (self.pointer + 1) % len(self.queue_KC)
