"""The stages of a ResNet: what a feature pyramid and the C4 detector take a backbone apart into."""

from __future__ import annotations

import torch
from torch import nn

from moco.errors import ArchitectureError

STAGES = ("layer1", "layer2", "layer3", "layer4")
_SIDE = 256  # of the probing image: every stage divides it


def check_stages(backbone: nn.Module) -> None:
    """Whether the backbone has four stages, one after the other.

    Raises:
        ArchitectureError: it has not; the message names backbones that have.
    """
    names = [name for name, _ in backbone.named_children()]
    places = [names.index(stage) for stage in STAGES if stage in names]
    if len(places) < len(STAGES) or places != list(range(places[0], places[0] + len(STAGES))):
        raise ArchitectureError(
            f"{type(backbone).__name__} has no stages layer1 to layer4, which FPN and C4 need: pretrain a ResNet such "
            "as resnet18, resnet50 or resnet_small"
        )


def stage_shapes(body: nn.Module, channels: int) -> list[tuple[int, int]]:
    """Channels and stride of each stage of `body`, images -> dict of features, from a forward of one image."""
    parameter = next(body.parameters())
    training = body.training
    with torch.no_grad():
        features = body.eval()(torch.zeros(1, channels, _SIDE, _SIDE, device=parameter.device))
    body.train(training)
    return [(value.shape[1], _SIDE // value.shape[-1]) for value in features.values()]
