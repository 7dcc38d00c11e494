"""Curing the BatchNorm leak: a query must not recognise its key by the statistics they share.

On one device the batch is split into groups with statistics of their own, and the key batch is shuffled, so that a
query's group differs from its key's (the authors' CIFAR demo). Across devices the shuffle alone does it (He et al.
2020, section 3.3). Or the key encoder runs in inference form, by averages of its own earlier batches. Or
trained weights keep their statistics, and no sample has any company.

N: samples   S: groups   C: channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormCure = Literal["auto", "split", "shuffle", "average", "frozen", "none"]
# The authors' demo uses 8 groups; below 4 samples a group's statistics say little.
DEFAULT_GROUPS, SMALLEST_GROUP = 8, 4
# Children of timm's BatchNormAct2d, applied in this order after the normalisation; both work sample by sample.
ACTIVATION_CHILDREN = ["drop", "act"]
Kind = TypeVar("Kind", bound=_BatchNorm)

_backward_kernel = torch.ops.aten.native_batch_norm_backward.default  # without the overload's name it is looked up


class Replacement(_BatchNorm):
    """A BatchNorm for inputs (N, C, ...) that has taken another's place; shapes and memory layout stay."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input of shape {tuple(input.shape)}: expected (N, C, ...)")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, then what a BatchNormAct2d has inside."""
        self._check_input_dim(input)
        output = self.normalize(input)
        for layer in self.children():
            output = layer(output)
        return output

    def normalize(self, input: Tensor) -> Tensor:
        """The plain form."""
        return super().forward(input)


class SplitBatchNorm(Replacement):
    """BatchNorm over each of S contiguous groups of the batch; the running statistics are the mean over groups.

    Groups are contiguous blocks of the batch because a block of a channels-last (or contiguous) tensor is a free
    view. `interleave` reorders a batch so that block g holds the samples n with n mod S = g, the demo's grouping. A
    batch that S does not divide gives the first groups one sample more. In eval mode it is plain BatchNorm.

    Raises:
        ValueError: in training, fewer than 2 samples for each group.
    """

    groups: int | None = None

    def normalize(self, input: Tensor) -> Tensor:
        """Group by group while training."""
        groups = resolve_groups(self.groups, input.shape[0]) if self.training else 1
        if groups == 1:
            return super().normalize(input)
        if torch.compiler.is_compiling():
            return self._normalize_by_formula(input, groups)
        if self.running_mean is None or self.running_var is None:
            output: Tensor = _SplitNormalize.apply(
                input, self.weight, self.bias, [None] * groups, [None] * groups, 0.0, self.eps
            )
            return output
        means_SC = self.running_mean.repeat(groups, 1)
        variances_SC = self.running_var.repeat(groups, 1)
        output = _SplitNormalize.apply(
            input, self.weight, self.bias, list(means_SC), list(variances_SC), self._average_factor(), self.eps
        )
        # By `data`, which autograd does not watch, as for plain BatchNorm: an earlier forward of one group may wait for
        # its backward pass, whose graph names the statistics but does not use them.
        self.running_mean.data.copy_(means_SC.mean(dim=0))
        self.running_var.data.copy_(variances_SC.mean(dim=0))
        return output

    def _normalize_by_formula(self, input: Tensor, groups: int) -> Tensor:
        """In elementary operations, which a compiler fuses; it cannot look into `_SplitNormalize`.

        Groups of one size are one more dimension, so that one kernel serves them all.
        """
        whole = input.to(statistics_dtype(input))
        equal = len(input) % groups == 0
        parts = (
            [whole.view(groups, -1, *whole.shape[1:])] if equal else [part[None] for part in whole.tensor_split(groups)]
        )
        others = [dimension for dimension in range(input.ndim + 1) if dimension not in (0, 2)]
        shape = (1, 1, -1, *[1] * (input.ndim - 2))
        outputs, means, variances = [], [], []
        for part in parts:  # (groups, samples, C, ...)
            variance, mean = torch.var_mean(part, dim=others, correction=0, keepdim=True)
            scaled = (part - mean) * torch.rsqrt(variance + self.eps)
            if self.weight is not None:
                scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
            outputs.append(scaled.to(input.dtype).flatten(0, 1))
            samples = part.numel() // mean.numel()
            means.append(mean.flatten(1))
            variances.append(variance.flatten(1) * (samples / max(samples - 1, 1)))
        if self.running_mean is not None and self.running_var is not None:
            factor = self._average_factor()
            self.running_mean.lerp_(torch.cat(means).mean(dim=0).detach(), factor)
            self.running_var.lerp_(torch.cat(variances).mean(dim=0).detach(), factor)
        return outputs[0] if equal else torch.cat(outputs)

    def _average_factor(self) -> float:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.momentum is None:  # cumulative average
            return 1.0 / float(self.num_batches_tracked)  # type: ignore[arg-type]
        return self.momentum


class _SplitNormalize(torch.autograd.Function):
    """PyTorch's own BatchNorm kernels, group by group, written straight into one output.

    Through autograd, splitting and concatenating copies every activation and pads every gradient: measured 4 to 6
    times slower than plain BatchNorm on a CPU, against 1.4 to 2 times this way.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_means: list[Tensor | None],
        running_variances: list[Tensor | None],
        factor: float,
        eps: float,
    ) -> Tensor:
        groups = len(running_means)
        input = input.contiguous(memory_format=_layout(input))  # the kernels write no other strides
        output = torch.empty_like(input)
        saved = torch.empty(2, groups, input.shape[1], device=input.device, dtype=statistics_dtype(input))
        means_SC, inverses_SC = saved.unbind()
        for part, out, mean, inverse, running_mean, running_variance in zip(
            input.tensor_split(groups),
            output.tensor_split(groups),
            means_SC.unbind(),
            inverses_SC.unbind(),
            running_means,
            running_variances,
            strict=True,
        ):
            torch.native_batch_norm(
                part, weight, bias, running_mean, running_variance, True, factor, eps, out=(out, mean, inverse)
            )
        ctx.save_for_backward(input, weight, saved)
        ctx.eps = eps
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, saved = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_layout(input))
        needed = list(ctx.needs_input_grad[:3])
        means_SC, inverses_SC = saved.unbind()
        groups = len(means_SC)
        gradients = [
            _backward_kernel(grad_part, part, weight, None, None, mean, inverse, True, ctx.eps, needed)
            for part, grad_part, mean, inverse in zip(
                input.tensor_split(groups),
                grad.tensor_split(groups),
                means_SC.unbind(),
                inverses_SC.unbind(),
                strict=True,
            )
        ]
        to_input, to_weight, to_bias = zip(*gradients, strict=True)
        grad_input = torch.cat(to_input) if needed[0] else None
        grad_weight = torch.stack(to_weight).sum(dim=0) if needed[1] else None
        grad_bias = torch.stack(to_bias).sum(dim=0) if needed[2] else None
        return grad_input, grad_weight, grad_bias, None, None, None, None


def statistics_dtype(input: Tensor) -> torch.dtype:
    """Half-precision activations keep their statistics in float32."""
    return torch.float32 if input.dtype in (torch.bfloat16, torch.float16) else input.dtype


def _layout(input: Tensor) -> torch.memory_format:
    if input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def resolve_groups(groups: int | None, batch_size: int) -> int:
    """The number of groups for a batch: the stated one, or 8, fewer where groups would fall under 4 samples.

    Raises:
        ValueError: a stated number that leaves groups under 2 samples, or a batch of 1.
    """
    if batch_size < 2:
        raise ValueError(f"batch of {batch_size} with BatchNorm: its statistics need at least 2 samples")
    if groups is None:
        return max(1, min(DEFAULT_GROUPS, batch_size // SMALLEST_GROUP))
    if batch_size < 2 * groups:
        raise ValueError(
            f"split BatchNorm with {groups} groups and a batch of {batch_size}: need at least {2 * groups} samples"
        )
    return groups


def split_batchnorm(module: nn.Module, groups: int | None) -> nn.Module:
    """Replace every BatchNorm layer, in place, by a `SplitBatchNorm` that owns the same parameters and buffers.

    State-dict names do not change. Returns the module (a new one only if the module itself is a BatchNorm).
    Layers that are split already take the new number of groups.

    Raises:
        ValueError: SyncBatchNorm, which joins statistics across devices and so is the leak itself; or a subclass of
            BatchNorm with a forward of its own, which the split would drop silently (timm's BatchNormAct2d is known).
    """

    def split(layer: _BatchNorm) -> nn.Module:
        if isinstance(layer, nn.SyncBatchNorm):
            raise ValueError("SyncBatchNorm does not cure the leak between query and key: use plain BatchNorm layers")
        made = layer if isinstance(layer, SplitBatchNorm) else take_over(layer, SplitBatchNorm)
        made.groups = groups
        return made

    return replace_batchnorm(module, split)


def replace_batchnorm(module: nn.Module, replacement: Callable[[_BatchNorm], nn.Module]) -> nn.Module:
    """Replace every BatchNorm layer in place; a new module only if the module itself is a BatchNorm."""
    if isinstance(module, _BatchNorm):
        return replacement(module)
    for name, child in list(module._modules.items()):  # named_children() would leave out a layer's second name
        if child is not None:
            module._modules[name] = replace_batchnorm(child, replacement)
    return module


def take_over(layer: _BatchNorm, kind: type[Kind]) -> Kind:
    """A layer of another kind that owns the same parameters, buffers and settings.

    Raises:
        ValueError: a forward of its own, which would be dropped silently.
    """
    own = type(layer).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    if own and list(layer._modules) != ACTIVATION_CHILDREN:
        raise ValueError(
            f"{type(layer).__name__} is a BatchNorm with a forward of its own, which {kind.__name__} would drop: "
            "use plain BatchNorm layers, or choose a cure that keeps the layers"
        )
    made = kind(layer.num_features, layer.eps, layer.momentum, False, layer.track_running_stats)
    made.affine, made.training = layer.affine, layer.training
    made._parameters.update(layer._parameters)
    made._buffers.update(layer._buffers)
    made._modules.update(layer._modules)
    return made


def freeze_batchnorm_(module: nn.Module) -> None:
    """Let every BatchNorm layer use the statistics that it has, from now to the module's next `train()`.

    Raises:
        ValueError: a layer without statistics of its own, which takes the batch's in inference too.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            if layer.running_mean is None:
                raise ValueError(
                    f"batchnorm='frozen': {name} has no running statistics (track_running_stats=False): choose another"
                )
            layer.eval()


def has_batchnorm(module: nn.Module) -> bool:
    """Whether any layer normalises by statistics of the batch."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def interleave(length: int, groups: int, device: torch.device) -> Tensor:
    """Order that puts the samples n with n mod S = g into block g; blocks as `torch.tensor_split` makes them."""
    return torch.cat([torch.arange(g, length, groups, device=device) for g in range(min(groups, length))])
