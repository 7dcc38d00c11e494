"""BatchNorm of a key encoder in inference form, with averages over its own earlier batches.

N: samples   C: channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moco.contrast.batchnorm import Replacement, replace_batchnorm, take_over
from moco.contrast.collective import all_gather_cat, world_size


class PastBatchNorm(Replacement):
    """Normalises by averages over its own batches of earlier steps; the batch at hand counts from the next step on.

    So a key depends on its own sample and on the past alone: it has no company that its query could recognise. Where
    there is no past, in the first step from random weights, the batch's own statistics stand in for it, layer by layer:
    else deep layers would begin with those of activations that nothing had normalised, and keep them for a hundred
    steps.

    While it trains, it gathers mean and variance of what it is given, and `end_step_` adds them to the running
    statistics: once a step, so that both views of a symmetric step, chunks and micro-batches are alike, and averaged
    over all ranks, so that these make keys alike and a checkpoint has what all go on with. The first batches are
    averaged evenly, until a new one counts as much as the layer's `momentum` says (`momentum=None`: for good). Buffers
    beside BatchNorm's own are empty between steps, and no part of the state dict.
    """

    gathered_2C: Tensor
    passes: Tensor

    def normalize(self, input: Tensor) -> Tensor:
        """In inference form; statistics are put aside while training."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean_C, variance_C = self.running_mean, self.running_var
        if self.training:
            found_2C = self._statistics(input)
            self.gathered_2C.add_(found_2C)
            self.passes.add_(1)
            first = self.num_batches_tracked == 0
            mean_C = torch.where(first, found_2C[0], mean_C)
            variance_C = torch.where(first, found_2C[1], variance_C)
        return nn.functional.batch_norm(input, mean_C, variance_C, self.weight, self.bias, training=False, eps=self.eps)

    def _statistics(self, input: Tensor) -> Tensor:
        """Mean and unbiased variance of the channels, (2, C)."""
        if torch.compiler.is_compiling():  # which does not see what the kernel below writes, and fuses this
            others = [dimension for dimension in range(input.ndim) if dimension != 1]
            variance_C, mean_C = torch.var_mean(input.to(self.gathered_2C.dtype), dim=others)
            return torch.stack([mean_C, variance_C])
        found_2C = torch.zeros_like(self.gathered_2C)  # what was there is multiplied by 0
        torch.batch_norm_update_stats(input, found_2C[0], found_2C[1], 1.0)  # var_mean takes 25 times as long on a CPU
        return found_2C

    @torch.no_grad()
    def absorb_(self) -> None:
        """The running statistics take the mean over the passes since the last call; without any they stay.

        Those of this rank: `end_step_` shares them before.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        came = self.passes.clamp(max=1)
        self.num_batches_tracked.add_(came)
        factor = 1.0 / self.num_batches_tracked.clamp(min=1).to(self.running_mean.dtype)
        if self.momentum is not None:
            factor = factor.clamp(min=self.momentum)
        mean_2C = self.gathered_2C / self.passes.clamp(min=1)
        self.running_mean.lerp_(mean_2C[0], factor * came)
        self.running_var.lerp_(mean_2C[1], factor * came)
        self.gathered_2C.zero_()
        self.passes.zero_()


def past_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm layer, in place, by a `PastBatchNorm` that owns the same parameters and buffers.

    State-dict names do not change. Returns the module (a new one only if the module itself is a BatchNorm).

    Raises:
        ValueError: a layer without running statistics, or a subclass of BatchNorm with a forward of its own, which
            would be dropped silently (timm's BatchNormAct2d is known).
    """

    def past(layer: Any) -> nn.Module:
        if layer.running_mean is None:
            raise ValueError("batchnorm='average' with track_running_stats=False: there is nothing to average in")
        made = take_over(layer, PastBatchNorm)
        made.register_buffer("gathered_2C", layer.running_mean.new_zeros(2, layer.num_features), persistent=False)
        made.register_buffer("passes", torch.zeros_like(layer.num_batches_tracked), persistent=False)
        return made

    return replace_batchnorm(module, past)


@torch.no_grad()
def end_step_(encoder_k: nn.Module) -> None:
    """What each `PastBatchNorm` has gathered enters its running statistics; every rank calls it."""
    layers = [layer for layer in encoder_k.modules() if isinstance(layer, PastBatchNorm)]
    if world_size() > 1:
        gathered = [layer.gathered_2C for layer in layers]
        everyone = all_gather_cat(torch.cat([each.flatten() for each in gathered])[None]).mean(dim=0)
        for each, mean in zip(gathered, torch.split(everyone, [each.numel() for each in gathered]), strict=True):
            each.copy_(mean.view_as(each))
    for layer in layers:
        layer.absorb_()
