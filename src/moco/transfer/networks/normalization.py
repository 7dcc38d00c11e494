"""BatchNorm in fine-tuning, as the paper has it: every layer is tuned and synchronised over the ranks, none is frozen,
and before testing the statistics are computed anew from training images (precise BN, Wu and Johnson, 2105.07576).

N: images on this rank   C: channels
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.contrast.collective import all_gather_cat
from moco.contrast.joint_batchnorm import join_batchnorm
from moco.errors import ArchitectureError, DataError

BATCHES = 200  # detectron2's TEST.PRECISE_BN.NUM_ITER


def tune_batchnorm_(model: nn.Module) -> nn.Module:
    """Let every BatchNorm layer learn, with statistics over the batch of all ranks; on one rank it is plain BatchNorm.

    State-dict names stay. Weights, biases and all other parameters of the model ask for a gradient afterwards. Returns
    the model.

    Raises:
        ArchitectureError: a frozen BatchNorm, or one with a forward of its own.
    """
    for name, layer in model.named_modules():
        if type(layer).__name__.startswith("FrozenBatchNorm"):
            advice = "the paper tunes all layers; build the model with norm_layer=nn.BatchNorm2d"
            raise ArchitectureError(f"{name} is a {type(layer).__name__}: {advice}")
    try:
        model = join_batchnorm(model)
    except ValueError as error:
        raise ArchitectureError(str(error)) from error
    return model.requires_grad_(True)


@torch.no_grad()
def precise_batchnorm_(model: nn.Module, batches: Iterable[Any], n: int = BATCHES) -> int:
    """Replace running means and variances by those of the inputs of each layer over the first `n` batches together.

    The model runs in training mode with the weights as they are, so that each layer sees inputs that were normalised
    with batch statistics, as in training. Values count alike, whatever batch they come in: the variance is that of all
    of them (unbiased), not a mean of the batches' variances. A layer that saw no value keeps its statistics. All ranks
    end with the same ones. Training flags and `num_batches_tracked` stay as they were.

    Args:
        model: called as model(batch); its BatchNorm layers with running statistics are changed, nothing else.
        batches: training batches of this rank; fewer than `n` are all used. Ranks must give equally many.
        n: batches at most, at least 1.

    Returns:
        The number of batches used.

    Raises:
        DataError: there was no batch.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    moments = {layer: _Moments() for layer in layers}
    used = 0
    with _kept_as_it_is(model, layers):
        hooks = [layer.register_forward_pre_hook(_collect(moments[layer])) for layer in layers]
        try:
            model.train()
            for _, batch in zip(range(n), batches, strict=False):
                model(batch)
                used += 1
        finally:
            for hook in hooks:
                hook.remove()
    if not used:
        raise DataError("precise BatchNorm got no batch: need at least 1 batch of training images")
    for layer in layers:
        moments[layer].write_(layer)
    return used


@contextlib.contextmanager
def _kept_as_it_is(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """Training flags, and the buffers of these layers, are afterwards what they were before."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
        for buffer, before in buffers:
            buffer.copy_(before)


class _Moments:
    """Number, sum and sum of squares of the values of each channel, in float64."""

    def __init__(self) -> None:
        self.sums_3C: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Values (N, C, ...)."""
        count = values.numel() // values.shape[1]
        if not count:
            return
        others = [dimension for dimension in range(values.ndim) if dimension != 1]
        variance_C, mean_C = torch.var_mean(values.float(), dim=others, correction=0)
        mean_C, variance_C = mean_C.double(), variance_C.double()
        sums = torch.stack([torch.ones_like(mean_C), mean_C, variance_C + mean_C.square()]) * count
        self.sums_3C = sums if self.sums_3C is None else self.sums_3C + sums

    def write_(self, layer: _BatchNorm) -> None:
        """Mean and unbiased variance over all ranks, into the layer."""
        assert layer.running_mean is not None
        assert layer.running_var is not None
        sums = self.sums_3C
        if sums is None:
            sums = torch.zeros(3, layer.num_features, dtype=torch.float64, device=layer.running_mean.device)
        count_C, sum_C, squares_C = all_gather_cat(sums[None]).sum(dim=0)
        if count_C[0] == 0:
            return
        mean_C = sum_C / count_C
        variance_C = (squares_C / count_C - mean_C.square()).clamp_min(0) * (count_C / (count_C - 1).clamp_min(1))
        layer.running_mean.copy_(mean_C)
        layer.running_var.copy_(variance_C)


def _collect(moments: _Moments) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        moments.add(inputs[0])

    return hook
