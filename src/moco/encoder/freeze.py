"""The first layers of a trained backbone kept as they are."""

from __future__ import annotations

from torch import nn

from moco.errors import ArchitectureError

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def freeze_first_layers_(backbone: nn.Module, share: float, name: str) -> int:
    """Let the first layers learn nothing, in the order in which the module names them, and return how many these are.

    `share`: of the convolutions and linear layers, 0 to below 1. Normalisation and other parameters before the first
    layer that learns are frozen with them. `name`: what messages call the backbone.

    Raises:
        ArchitectureError: a share above 0 of a module without such layers.
    """
    layers = [module for module in backbone.modules() if isinstance(module, _LAYERS)]
    count = int(share * len(layers))
    if share > 0 and not layers:
        raise ArchitectureError(f"frozen_layers={share:g} of {name}, which has no convolutions or linear layers: use 0")
    if count:
        first = layers[count]
        for module in backbone.modules():
            if module is first:
                break
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return count
