"""The papers' linear probe: a linear layer trained by SGD on the features of a frozen backbone.

He et al., 1911.05722, section 4.1: 100 epochs, batch 256, learning rate 30, momentum 0.9, no weight decay, x0.1 at
epochs 60 and 80. Such a learning rate suits the small features of contrastive networks; where it does not, let a sweep
choose another.

N: images   D: feature width   C: classes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.errors import RunError
from moco.evaluation.features import eval_mode, module_device

Pass = Callable[[int], Iterable[tuple[Tensor, Tensor]]]  # epoch, from 0, to batches of images and targets

BATCH_SIZE, MOMENTUM = 256, 0.9
MILESTONES, DECAY = (0.6, 0.8), 0.1  # shares of the epochs; factor of the learning rate at each
SPREAD = 0.01  # standard deviation of the fresh weights


def linear_probe(
    backbone: nn.Module,
    one_pass: Pass,
    *,
    feature_dim: int,
    num_classes: int,
    epochs: int,
    learning_rates: Sequence[float],
    seed: int,
) -> list[nn.Linear]:
    """Train one linear layer for each learning rate, all on the same features, and return them on the CPU.

    The backbone is in eval mode throughout and has no gradient. Afterwards every parameter and buffer is compared with
    its value before, bit by bit.

    Args:
        backbone: (N, 3, H, W) -> (N, D); comes back as it was.
        one_pass: from the epoch to its batches: normalised images and (N,) integers in [0, C).
        feature_dim: D.
        num_classes: C.
        epochs: passes over the images.
        learning_rates: not scaled with the batch.
        seed: decides the fresh weights, N(0, 0.01) with zero bias, the same for every learning rate.

    Raises RunError where a tensor of the backbone has changed, or the weights are no longer numbers.
    """
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    layers = [fresh_layer(feature_dim, num_classes, seed=seed).to(module_device(backbone)) for _ in learning_rates]
    with eval_mode(backbone):
        _train(backbone, layers, one_pass, epochs, learning_rates)
    changed = changed_tensors(before, backbone.state_dict())
    if changed:
        raise RunError(f"the probe changed the backbone ({', '.join(changed[:3])}): it must not learn or keep count")
    for layer, rate in zip(layers, learning_rates, strict=True):
        if not math.isfinite(layer.weight.sum().item()):
            raise RunError(f"the linear probe diverged at learning rate {rate:g}: lower it, or use the fast probe")
    return [layer.cpu() for layer in layers]


def fresh_layer(feature_dim: int, num_classes: int, *, seed: int) -> nn.Linear:
    """A linear layer (N, D) -> (N, C) with weights N(0, 0.01) drawn from the seed, and zero bias."""
    layer = nn.Linear(feature_dim, num_classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.normal_(0.0, SPREAD, generator=generator)
        layer.bias.zero_()
    return layer


def changed_tensors(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same bit by bit, or are there only once."""
    return [
        name
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or not _same_bits(before[name], after[name])
    ]


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(*(value.cpu().contiguous().reshape(-1).view(torch.uint8) for value in (first, second)))


def _train(
    backbone: nn.Module, layers: list[nn.Linear], one_pass: Pass, epochs: int, learning_rates: Sequence[float]
) -> None:
    optimizers = [
        torch.optim.SGD(layer.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=0.0)
        for layer, rate in zip(layers, learning_rates, strict=True)
    ]
    for epoch in range(epochs):
        factor = DECAY ** sum(epoch >= round(share * epochs) for share in MILESTONES)
        for optimizer, rate in zip(optimizers, learning_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        for images, targets in one_pass(epoch):
            _step(backbone, layers, optimizers, images, targets)


def _step(
    backbone: nn.Module, layers: list[nn.Linear], optimizers: list[torch.optim.SGD], images: Tensor, targets: Tensor
) -> None:
    device = module_device(backbone)
    with torch.no_grad():
        features_ND = backbone(images.to(device)).float()
    for layer, optimizer in zip(layers, optimizers, strict=True):
        loss = F.cross_entropy(layer(features_ND), targets.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
