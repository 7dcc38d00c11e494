"""Convolutions that end in small maps, tap by tap, on a CPU.

A 3 x 3 kernel on a 2 x 2 map multiplies zeros of the padding in 20 of its 36 products, and PyTorch's kernels spend more
time in rearranging the large weights of such late layers than in using them. Here each tap of the kernel is one matrix
product over the positions at which it meets the map: nothing is multiplied by padding, and channels-last weights are
read and their gradients written where they lie. Sums over taps are float32 at
least. The result is PyTorch's up to rounding;
docs/log.md says what it gains.

N: samples   C: channels in   O: channels out   H, W: height and width of a map
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# From how many weights of one tap on, for the larger of a map's height and width: of fewer, PyTorch's kernels have less
# to rearrange, and the calls cost more than what they compute.
SMALLEST_TAPS = {1: 2**15, 2: 2**15, 3: 2**17, 4: 2**17}
# Row and column of the kernel, where in the output, where in the input.
Taps = list[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]


def use_tap_products_(module: nn.Module) -> nn.Module:
    """Let every large plain `nn.Conv2d`, without groups or dilation, compute small maps tap by tap; returns the module.

    Only the layers' class changes: parameters, names and hooks stay. A layer falls back to PyTorch's convolution for
    larger maps, on other devices, in other layouts than channels-last, and in a compiled encoder.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _plain(layer):
            layer.__class__ = SmallMapConv2d
    return module


def _plain(layer: nn.Conv2d) -> bool:
    simple = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    large = _tap(layer) >= min(SMALLEST_TAPS.values())
    return simple and large and not isinstance(layer.padding, str)


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` whose small maps are computed tap by tap; made by `use_tap_products_`."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        if not self._takes(input):
            return super().forward(input)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            input, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (input, weight))
        output: Tensor = _TapByTap.apply(input, weight, self.stride, self.padding)
        return output if self.bias is None else output + self.bias.to(output.dtype).view(-1, 1, 1)

    def _takes(self, input: Tensor) -> bool:
        if input.device.type != "cpu" or input.ndim != 4 or torch.compiler.is_compiling():
            return False
        pads = [side for side in self.padding if isinstance(side, int)]  # strings were left out at the door
        axes = zip(input.shape[2:], self.kernel_size, self.stride, pads, strict=True)
        sizes = [_size_out(*axis) for axis in axes]
        small = min(sizes) > 0 and _tap(self) >= SMALLEST_TAPS.get(max(sizes), math.inf)
        return small and self.weight.is_contiguous(memory_format=torch.channels_last)


class _TapByTap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(input, weight)
        x_NHWC, weight_OHWC = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        axes = list(zip(input.shape[2:], weight.shape[2:], stride, padding, strict=True))
        down, across = (_spans(*axis) for axis in axes)
        ctx.taps = [(row, column, (y, x), (v, u)) for row, y, v in down for column, x, u in across]
        size = [_size_out(*axis) for axis in axes]
        sums_NHWO = torch.zeros(len(input), *size, len(weight), dtype=_sums_dtype(input))
        for row, column, there, here in ctx.taps:
            part_MC = x_NHWC[:, *here].flatten(0, 2)
            meant = sums_NHWO[:, *there]
            meant += torch.mm(part_MC, weight_OHWC[:, row, column].t()).view(meant.shape)
        return sums_NHWO.to(input.dtype).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        wants_input, wants_weight = ctx.needs_input_grad[:2]
        x_NHWC, weight_OHWC, grad_NHWO = (t.permute(0, 2, 3, 1) for t in (input, weight, grad))
        sums_NHWC = torch.zeros(x_NHWC.shape, dtype=_sums_dtype(input)) if wants_input else None
        to_weight = _empty_or_zeros(weight, ctx.taps) if wants_weight else None
        for row, column, there, here in ctx.taps:
            pull_MO = grad_NHWO[:, *there].flatten(0, 2)
            if sums_NHWC is not None:
                meant = sums_NHWC[:, *here]
                meant += torch.mm(pull_MO, weight_OHWC[:, row, column]).view(meant.shape)
            if to_weight is not None:
                to_weight[:, :, row, column] = torch.mm(pull_MO.t(), x_NHWC[:, *here].flatten(0, 2))
        to_input = None if sums_NHWC is None else sums_NHWC.to(input.dtype).permute(0, 3, 1, 2)
        return to_input, to_weight, None, None


def _tap(layer: nn.Conv2d) -> int:
    return layer.in_channels * layer.out_channels


def _empty_or_zeros(weight: Tensor, taps: Taps) -> Tensor:
    """For the gradient: a tap that meets no position has gradient 0; where none is so, nothing has to be filled."""
    return torch.empty_like(weight) if len(taps) == weight.shape[2:].numel() else torch.zeros_like(weight)


def _sums_dtype(input: Tensor) -> torch.dtype:
    return torch.promote_types(input.dtype, torch.float32)


def _size_out(size: int, kernel: int, step: int, pad: int) -> int:
    return (size + 2 * pad - kernel) // step + 1


def _spans(size: int, kernel: int, step: int, pad: int) -> list[tuple[int, slice, slice]]:
    """Along one axis: the taps that meet the map, each with where they do, in the output and in the input."""
    spans = []
    for tap in range(kernel):
        first = max(0, -((tap - pad) // step))  # the first output position whose input lies on the map
        last = min(_size_out(size, kernel, step, pad) - 1, (size - 1 - tap + pad) // step)
        if first <= last:
            start = first * step + tap - pad
            spans.append((tap, slice(first, last + 1), slice(start, start + (last - first) * step + 1, step)))
    return spans
