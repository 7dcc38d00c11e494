"""Split BatchNorm as the authors' CIFAR demo defines it: sample n in group n mod S, one group after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def split_normalize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean_C: Tensor,
    variance_C: Tensor,
    *,
    groups: int,
    factor: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and the running mean and variance afterwards (the mean over groups of each group's own update)."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    over = [0, *range(2, x.ndim)]
    output, means, variances = torch.empty_like(x), [], []
    for group in range(groups):
        part = x[group::groups]
        count = part.numel() // part.shape[1]
        mean, variance = part.mean(dim=over), part.var(dim=over, correction=0)
        scaled = (part - mean.view(shape)) / torch.sqrt(variance.view(shape) + eps)
        output[group::groups] = scaled * weight.view(shape) + bias.view(shape)
        means.append((1 - factor) * mean_C + factor * mean.detach())
        variances.append((1 - factor) * variance_C + factor * variance.detach() * count / (count - 1))
    return output, torch.stack(means).mean(dim=0), torch.stack(variances).mean(dim=0)
