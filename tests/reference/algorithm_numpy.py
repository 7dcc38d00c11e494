"""Algorithm 1 of He et al. (CVPR 2020) in NumPy, with the gradients written by hand.

The encoder is a chain of linear layers with a ReLU between them; the first layer may be a convolution. The optimiser is
SGD with momentum and weight decay.

N: samples   C: embedding width   K: keys in the dictionary   I, O: a layer's inputs, outputs   P: places in an image
"""

from __future__ import annotations

import dataclasses

import numpy as np

Weights = dict[str, np.ndarray]  # named as in torch's nn.Sequential: "0.weight", "0.bias", "2.weight", ...


def layer_names(weights: Weights) -> list[str]:
    """The layers' numbers in nn.Sequential, in order."""
    return sorted({name.split(".")[0] for name in weights}, key=int)


def patches(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, channels, rows, columns) -> (N, P, I): what a convolution of stride 1 without padding sees at each place."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(2, 3))
    windows = windows.transpose(0, 2, 3, 1, 4, 5)
    return windows.reshape(len(x), windows.shape[1] * windows.shape[2], -1)


def encode_layers(weights: Weights, x: np.ndarray) -> list[np.ndarray]:
    """The input of each layer, as (N, P, I), and last the embeddings (N, C), which are not normalised."""
    trace = []
    for name in layer_names(weights):
        weight = weights[f"{name}.weight"]
        x = np.maximum(x, 0) if trace else x
        places = patches(x, *weight.shape[2:]) if weight.ndim == 4 else x[:, None]
        trace.append(places)
        output_NPO = places @ weight.reshape(len(weight), -1).T + weights[f"{name}.bias"]
        x = output_NPO.transpose(0, 2, 1).reshape(len(x), -1)  # channels first, as torch flattens
    return [*trace, x]


def encode(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Embeddings (N, C), not normalised."""
    return encode_layers(weights, x)[-1]


def encode_gradient(weights: Weights, x: np.ndarray, grad_NC: np.ndarray) -> Weights:
    """Gradient of the weights, from the gradient of the embeddings."""
    gradient: Weights = {}
    grad = grad_NC
    inputs = encode_layers(weights, x)[:-1]
    for name, places_NPI in reversed(list(zip(layer_names(weights), inputs, strict=True))):
        weight = weights[f"{name}.weight"]
        grad_NPO = grad.reshape(len(x), len(weight), -1).transpose(0, 2, 1)
        gradient[f"{name}.weight"] = np.einsum("npo,npi->oi", grad_NPO, places_NPI).reshape(weight.shape)
        gradient[f"{name}.bias"] = grad_NPO.sum(axis=(0, 1))
        if weight.ndim == 2:  # a convolution comes first, and nobody asks for the gradient of the images
            grad = (grad_NPO[:, 0] @ weight) * (places_NPI[:, 0] > 0)
    return gradient


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

    def symmetric_step(self, x_1: np.ndarray, x_2: np.ndarray) -> tuple[float, np.ndarray]:
        """Both views as query and as key: the sum of both losses, and the logits of view 1's, then of view 2's queries.

        The keys of view 1, then of view 2, are enqueued after everything has moved.
        """
        k_1, k_2 = unit(encode(self.f_k, x_1)), unit(encode(self.f_k, x_2))
        loss_1, logits_1, gradient_1 = self._loss(x_1, k_2)
        loss_2, logits_2, gradient_2 = self._loss(x_2, k_1)
        self._sgd({name: gradient_1[name] + gradient_2[name] for name in gradient_1})
        self._momentum_update()
        self._enqueue(np.concatenate([k_1, k_2]))
        return loss_1 + loss_2, np.concatenate([logits_1, logits_2])

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
