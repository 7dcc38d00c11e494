"""Convolutions that end in maps of at most 2 x 2, tap by tap, on a CPU.

A 3 x 3 kernel on a 2 x 2 map multiplies zeros of the padding in 20 of its 36 products, and PyTorch's kernels spend more
time in rearranging the large weights of such late layers than in using them. Here each tap of the kernel is one matrix
product over the positions at which it meets the map: nothing is multiplied by padding, and channels-last weights are
read and their gradients written where they lie. Sums over taps are float32. The result is PyTorch's up to rounding;
docs/log.md says what it gains.

N: samples   C: channels in   O: channels out   H, W: height and width of a map
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGEST_MAP = 2  # height and width; at 4 x 4 PyTorch's own kernels are as fast
SMALLEST_TAP = 2**15  # weights of one tap; of fewer, the calls would cost more than what they compute
Taps = list[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]  # row, column, where in the output, in the input


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
    large = layer.in_channels * layer.out_channels >= SMALLEST_TAP
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
        rows, columns = map_shape(input, self)
        small = 0 < rows <= LARGEST_MAP and 0 < columns <= LARGEST_MAP
        return small and self.weight.is_contiguous(memory_format=torch.channels_last)


def map_shape(input: Tensor, layer: nn.Conv2d) -> tuple[int, int]:
    """Height and width of the layer's output for this input."""
    pads = [side for side in layer.padding if isinstance(side, int)]
    rows, columns = (
        (size + 2 * pad - kernel) // stride + 1
        for size, pad, kernel, stride in zip(input.shape[2:], pads, layer.kernel_size, layer.stride, strict=True)
    )
    return rows, columns


class _TapByTap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(input, weight)
        x_NHWC, weight_OHWC = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        ctx.taps, (rows, columns) = _taps(input.shape[2:], weight.shape[2:], stride, padding)
        sums_NHWO = torch.zeros(len(input), rows, columns, len(weight), dtype=torch.float32)
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
        sums_NHWC = torch.zeros(x_NHWC.shape, dtype=torch.float32) if wants_input else None
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


def _empty_or_zeros(weight: Tensor, taps: Taps) -> Tensor:
    """For the gradient: a tap that meets no position has gradient 0; where none is so, nothing has to be filled."""
    return torch.empty_like(weight) if len(taps) == weight.shape[2:].numel() else torch.zeros_like(weight)


def _taps(
    map_size: torch.Size, kernel_size: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[Taps, tuple[int, int]]:
    """The taps that meet the map, with the positions at which they do; and the size of the output."""
    spans: list[list[tuple[int, slice, slice]]] = []
    sizes = []
    for size, kernel, step, pad in zip(map_size, kernel_size, stride, padding, strict=True):
        size_out = (size + 2 * pad - kernel) // step + 1
        sizes.append(size_out)
        spans.append([])
        for tap in range(kernel):
            first = max(0, -((tap - pad) // step))  # the first output position whose input lies on the map
            last = min(size_out - 1, (size - 1 - tap + pad) // step)
            if first <= last:
                inputs = slice(first * step + tap - pad, last * step + tap - pad + 1, step)
                spans[-1].append((tap, slice(first, last + 1), inputs))
    pairs: Iterator[tuple[Any, Any]] = ((vertical, across) for vertical in spans[0] for across in spans[1])
    taps = [(v[0], a[0], (v[1], a[1]), (v[2], a[2])) for v, a in pairs]
    return taps, (sizes[0], sizes[1])
