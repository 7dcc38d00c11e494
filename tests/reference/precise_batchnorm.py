"""Precise BatchNorm the slow way: keep every input of every layer, then take mean and variance of all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def population_statistics(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and unbiased variance of each BatchNorm layer's inputs over all batches; the model stays as it is."""
    model = copy.deepcopy(model).train()
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    }
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(
            lambda module, given, name=name: inputs[name].append(given[0].transpose(0, 1).flatten(1).double())
        )
    for batch in batches:
        model(batch)
    values = {name: torch.cat(parts, dim=1) for name, parts in inputs.items() if parts}
    return {name: (value.mean(dim=1), value.var(dim=1)) for name, value in values.items()}
