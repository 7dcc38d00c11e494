"""BatchNorm over the samples of all ranks, as MoCo v3 has it (SyncBN).

N: samples on this rank   C: channels   W: ranks
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moco.contrast.batchnorm import Replacement, replace_batchnorm, statistics_dtype, take_over
from moco.contrast.collective import all_gather_cat, world_size


class JointBatchNorm(Replacement):
    """PyTorch's SyncBatchNorm, which computes on GPUs only, and the same by formula on a CPU.

    Ranks may hold different numbers of values, or none: each value counts alike. In eval mode, and on one rank, it is
    plain BatchNorm. It is no subclass of SyncBatchNorm, because DistributedDataParallel refuses those on a CPU.
    """

    process_group = None  # all ranks; `SyncBatchNorm.forward` asks for it
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def normalize(self, input: Tensor) -> Tensor:
        """Over all ranks while training."""
        if not self.training or world_size() == 1:
            return super().normalize(input)
        if input.is_cuda:
            return nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
        return self._over_ranks(input)

    def _over_ranks(self, input: Tensor) -> Tensor:
        values = input.to(statistics_dtype(input))
        others = [dimension for dimension in range(input.ndim) if dimension != 1]
        count = input.numel() // input.shape[1]
        if count:
            variance_C, mean_C = torch.var_mean(values, dim=others, correction=0)
        else:  # the mean of nothing is no number; a sum takes part in the backward pass, where other ranks wait
            variance_C = mean_C = values.sum(dim=others)
        known = torch.stack([mean_C, variance_C, torch.full_like(mean_C, count)])
        means_WC, variances_WC, counts_WC = all_gather_cat(known[None]).unbind(dim=1)
        total_C = counts_WC.sum(dim=0)
        shares_WC = counts_WC / total_C
        mean_C = (means_WC * shares_WC).sum(dim=0)
        variance_C = ((variances_WC + (means_WC - mean_C).square()) * shares_WC).sum(dim=0)
        shape = (1, -1, *[1] * (input.ndim - 2))
        output = (values - mean_C.view(shape)) * torch.rsqrt(variance_C.view(shape) + self.eps)
        if self.weight is not None:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        self._track(mean_C.detach(), variance_C.detach(), total_C.detach())
        return output.to(input.dtype)

    def _track(self, mean_C: Tensor, variance_C: Tensor, total_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, factor)
        self.running_var.lerp_(variance_C * (total_C / (total_C - 1).clamp_min(1)), factor)


def join_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm layer, in place, by a `JointBatchNorm` that owns the same parameters and buffers.

    State-dict names do not change. Returns the module (a new one only if the module itself is a BatchNorm).

    Raises:
        ValueError: a subclass of BatchNorm with a forward of its own, which would be dropped silently (timm's
            BatchNormAct2d is known).
    """
    return replace_batchnorm(
        module, lambda layer: layer if isinstance(layer, JointBatchNorm) else take_over(layer, JointBatchNorm)
    )
