"""Supervised training of a whole network: fine-tuning, and the baseline that starts from random weights.

One routine for both, so that they differ in the initial weights and the stated learning rate alone: SGD with Nesterov
momentum, cosine schedule with a short warm-up, random resized crops and flips. Deliberately plain.

N: images   D: feature width   C: classes
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.errors import RunError
from moco.evaluation.features import module_device
from moco.evaluation.linear import Pass, fresh_layer

BATCH_SIZE = 128
SCRATCH_RATE, FINETUNE_RATE = 0.1, 0.02  # at this batch; scaled linearly for a smaller one
MOMENTUM, WEIGHT_DECAY, WARMUP = 0.9, 5e-4, 0.05  # warm-up as a share of the steps
CROP_MIN = 0.2  # of the area of a random crop
EPOCHS, LEAST_STEPS = 20, 300  # unless the user says otherwise: so many passes, more where they are few steps


def classifier(backbone: nn.Module, feature_dim: int, num_classes: int, *, seed: int) -> nn.Sequential:
    """The backbone, (N, 3, H, W) -> (N, D), with a fresh linear layer on top: (N, C) logits."""
    layer = fresh_layer(feature_dim, num_classes, seed=seed)
    return nn.Sequential(backbone, layer.to(module_device(backbone)))


def train_classifier(
    network: nn.Module,
    one_pass: Pass,
    *,
    epochs: int,
    steps_per_epoch: int,
    learning_rate: float,
) -> nn.Module:
    """Train all weights in place and return the network in eval mode.

    Args:
        network: (N, 3, H, W) -> (N, C) logits.
        one_pass: from the epoch to its batches: normalised images, and targets: (N,) integers in [0, C), or (N, C) of
            0 and 1 for several labels an image.
        epochs: passes over the images.
        steps_per_epoch: batches in a pass.
        learning_rate: at the end of the warm-up.

    Raises:
        RunError: the loss is no longer a number.
    """
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    total, step = epochs * steps_per_epoch, 0
    network.train()
    for epoch in range(epochs):
        for images, targets in one_pass(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate * _factor(step, total)
            loss = _step(network, optimizer, images, targets)
            step += 1
        if not math.isfinite(loss):
            raise RunError(f"the loss is {loss} after {step} steps of supervised training: lower learning_rate")
    return network.eval()


def default_epochs(steps_per_epoch: int) -> int:
    """Passes over the images where the user states none: 20, or as many as 300 steps take."""
    return max(EPOCHS, math.ceil(LEAST_STEPS / steps_per_epoch))


def balanced_part(labels: np.ndarray, fraction: float, *, seed: int) -> np.ndarray:
    """Positions of a part of the labelled images in which every class has the same number, sorted.

    The number is that of the fraction shared among the classes, at least 1; a class with fewer images gives all. At
    fraction 1 it is all images. Of one seed, a smaller part is contained in a larger one. Where an image has several
    labels ((N, C) of 0 and 1) the part is drawn from all images alike.
    """
    if fraction == 1:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2:
        return np.sort(order[: max(2, round(fraction * len(labels)))])
    classes = np.unique(labels)
    each = max(1, round(fraction * len(labels) / len(classes)))
    return np.sort(np.concatenate([order[labels[order] == label][:each] for label in classes]))


def _factor(step: int, total: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(WARMUP * total))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _step(network: nn.Module, optimizer: torch.optim.SGD, images: Tensor, targets: Tensor) -> float:
    device = module_device(network)
    logits, targets = network(images.to(device)), targets.to(device)
    if targets.ndim == 2:
        loss = F.binary_cross_entropy_with_logits(logits, targets.float())
    else:
        loss = F.cross_entropy(logits, targets)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()
