"""One step of MoCo v3 for a linear encoder and a linear predictor, in NumPy, with gradients by hand.

x: (N, D) samples   A: (C, D) encoder   P: (C, C) predictor   q = normalize(x A' P')   k = normalize(x A_k')
"""

from __future__ import annotations

import dataclasses

import numpy as np

Array = np.ndarray


@dataclasses.dataclass
class State:
    """Weights of f_q, f_k and predictor."""

    encoder_q: Array
    encoder_k: Array
    predictor: Array


def step(state: State, x_1: Array, x_2: Array, *, temperature: float, key_momentum: float, rate: float) -> float:
    """Loss of the step; the state moves: gradient descent, then the momentum update."""
    k_1, k_2 = (_unit(x @ state.encoder_k.T)[0] for x in (x_1, x_2))
    losses, grad_encoder, grad_predictor = [], np.zeros_like(state.encoder_q), np.zeros_like(state.predictor)
    for x, k in ((x_1, k_2), (x_2, k_1)):
        embedded = x @ state.encoder_q.T
        q, length = _unit(embedded @ state.predictor.T)
        logits = q @ k.T / temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        losses.append(-2 * temperature * np.log(np.diagonal(shares)).mean())
        to_q = 2 * (shares - np.eye(len(x))) @ k / len(x)  # the temperature cancels
        to_raw = (to_q - q * (to_q * q).sum(axis=1, keepdims=True)) / length
        grad_predictor += to_raw.T @ embedded
        grad_encoder += (to_raw @ state.predictor).T @ x
    state.encoder_q = state.encoder_q - rate * grad_encoder
    state.predictor = state.predictor - rate * grad_predictor
    state.encoder_k = key_momentum * state.encoder_k + (1 - key_momentum) * state.encoder_q
    return float(sum(losses))


def _unit(rows: Array) -> tuple[Array, Array]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / length, length
