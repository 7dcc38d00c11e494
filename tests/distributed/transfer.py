"""Fine-tuning on several ranks: BatchNorm over all of them, and its statistics before the test.

N: images on a rank   W: ranks
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moco.encoder import SmallResNet
from moco.transfer.networks.normalization import precise_batchnorm_, tune_batchnorm_
from tests.reference.precise_batchnorm import population_statistics


def precise_statistics(rank: int, world: int) -> dict[str, Any]:
    """Of a model on this rank's share of two batches, and of a plain copy of it on the whole of them."""
    torch.manual_seed(7)
    model, alone = SmallResNet(width=4), SmallResNet(width=4)
    alone.load_state_dict(model.state_dict())
    batches = [3 + 2 * torch.randn(2 * world, 3, 16, 16) for _ in range(2)]
    precise_batchnorm_(tune_batchnorm_(model), [batch.chunk(world)[rank] for batch in batches])
    return {"ranks": _statistics(model), "whole": _by_hand(alone, batches)}


def _by_hand(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    found = population_statistics(model, batches)
    means = {f"{name}.running_mean": mean.float() for name, (mean, _) in found.items()}
    return means | {f"{name}.running_var": variance.float() for name, (_, variance) in found.items()}


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
