"""A lane's copy of an encoder: its weights, and what passes between the lanes, lie in memory that processes share."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from moco.contrast.batchnorm import SplitBatchNorm
from moco.training.small_maps import SmallMapConv2d

Encode = Callable[[nn.Module, Tensor], Tensor]
ALIGNMENT = 64  # bytes: a line of the cache
WIDEST = 8  # bytes of an element
DIGEST = 16  # characters
KEPT_GRAPHS = 4  # a symmetric step has two queries before its backward pass
# Layers that autocast computes in bfloat16, whatever type their weights have. Subclasses may use weights otherwise.
CAST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, SmallMapConv2d, nn.Conv3d)


def anonymous_memory(size: int) -> int:
    """File descriptor of so many bytes that have no name and end with the processes that hold them."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("moco-lanes")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class Arena:
    """Tensors one after the other in shared memory; who takes the same in the same order shares them.

    Args:
        descriptor: from `anonymous_memory`.
        offset: where the first one lies, in bytes.
    """

    def __init__(self, descriptor: int, *, offset: int = 0) -> None:
        self._bytes = mmap.mmap(descriptor, 0)
        self._offset = offset

    def take(self, like: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """The next tensor, of the same shape and strides; what it holds is whatever lies there."""
        dtype = dtype or like.dtype
        extent = 1 + sum((n - 1) * stride for n, stride in zip(like.shape, like.stride(), strict=True))
        elements = extent if like.numel() else 0
        flat = torch.frombuffer(self._bytes, dtype=dtype, count=max(1, elements), offset=self._offset)
        self._offset += math.ceil(max(1, elements) * dtype.itemsize / ALIGNMENT) * ALIGNMENT
        return flat.as_strided(like.shape, like.stride())


class Passage:
    """What passes between this process and one lane for one encoder, in shared memory.

    Attributes:
        gradients: from the lane, of each parameter that is learnt.
        touched: 1 for each of them that took part, else 0.
        buffers: of the lane's encoder, before and after a forward pass.
        samples, embeddings, pull: the lane's input, output, and the gradient of its output.
    """

    def __init__(self, encoder: nn.Module, arena: Arena, samples: torch.Size, embedding_dim: int) -> None:
        self.gradients = [arena.take(p) for p in encoder.parameters() if p.requires_grad]
        self.touched = arena.take(torch.empty(len(self.gradients), dtype=torch.uint8, device="meta"))
        self.buffers = [arena.take(buffer) for buffer in encoder.buffers()]
        images = torch.empty(samples, device="meta", memory_format=torch.channels_last)  # as the loader makes them
        embeddings = torch.empty(samples[0], embedding_dim, device="meta")
        self.samples, self.embeddings, self.pull = (arena.take(like) for like in (images, embeddings, embeddings))


class Exchange:
    """One encoder's weights for all lanes, and a passage to each of them.

    Args:
        encoder: gives the shapes; it is left alone.
        lanes: how many.
        samples: shape of a lane's samples.
        embedding_dim: width of an embedding.
        half_precision: whether weights are handed over in bfloat16 where autocast would cast them.

    Attributes:
        weights: of each parameter, as the lanes use it.
        passages: one for each lane.
    """

    def __init__(
        self,
        encoder: nn.Module,
        arena: Arena,
        *,
        lanes: int,
        samples: torch.Size,
        embedding_dim: int,
        half_precision: bool,
    ) -> None:
        cast = _cast_parameters(encoder) if half_precision else set()
        self.weights = [arena.take(p, dtype=torch.bfloat16 if id(p) in cast else p.dtype) for p in encoder.parameters()]
        self.passages = [Passage(encoder, arena, samples, embedding_dim) for _ in range(lanes)]

    @property
    def digest(self) -> str:
        """Equal where both sides share the same tensors."""
        one = self.passages[0]
        shared = [*self.weights, *one.gradients, *one.buffers, one.samples, one.embeddings]
        about = [(str(tensor.dtype), tuple(tensor.shape), tensor.stride()) for tensor in shared]
        return hashlib.sha256(repr(about).encode()).hexdigest()[:DIGEST]


def exchange_bytes(encoder: nn.Module, lanes: int, samples: torch.Size, embedding_dim: int) -> int:
    """More than an `Exchange` takes; pages that nobody touches are never there."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    passed = sum(tensor.numel() + 1 for tensor in tensors) + samples.numel() + 2 * samples[0] * embedding_dim
    return (lanes + 1) * (WIDEST * passed + ALIGNMENT * (len(tensors) + 5))


class Replica:
    """A lane's encoder: its weights are those of an `Exchange`.

    Args:
        module: a copy that may be spoilt, its BatchNorm already split.
        weights: from an `Exchange`.
        encode: how it is called on samples; precision belongs there.
        groups: BatchNorm groups of the lane's samples.
    """

    def __init__(self, module: nn.Module, weights: list[Tensor], encode: Encode, *, groups: int) -> None:
        self.module, self._encode = module.train(), encode
        self._graphs: dict[int, Tensor] = {}
        for layer in module.modules():
            if isinstance(layer, SplitBatchNorm):
                layer.groups = groups
        self._learnt: list[Tensor] = []
        owners = _owners(module)
        for parameter, weight in zip(list(module.parameters()), weights, strict=True):
            leaf = nn.Parameter(weight, requires_grad=parameter.requires_grad)
            self._learnt += [leaf] if leaf.requires_grad else []
            for layer, name in owners[id(parameter)]:
                layer._parameters[name] = leaf

    def forward(self, samples: Tensor, number: int | None) -> Tensor:
        """Embeddings, detached; under a number the graph is kept for `backward`."""
        with torch.set_grad_enabled(number is not None):
            embeddings = self._encode(self.module, samples)
        if number is not None:
            self._graphs[number] = embeddings
            if len(self._graphs) > KEPT_GRAPHS:
                del self._graphs[min(self._graphs)]
        return embeddings.detach()

    def backward(self, number: int, pull: Tensor) -> list[Tensor | None]:
        """Gradients of the weights that are learnt, in their own type; the graph is gone afterwards."""
        embeddings = self._graphs.pop(number)
        torch.autograd.backward(embeddings, pull.to(embeddings.dtype))
        gradients = [leaf.grad for leaf in self._learnt]
        for leaf in self._learnt:
            leaf.grad = None
        return gradients


def _owners(module: nn.Module) -> dict[int, list[tuple[Any, str]]]:
    """Which layers hold each parameter, under which name."""
    owners: dict[int, list[tuple[Any, str]]] = {}
    for layer in module.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((layer, name))
    return owners


def _cast_parameters(module: nn.Module) -> set[int]:
    """Parameters that autocast would cast to bfloat16: those of one convolution or linear layer alone.

    Where several layers share one, its gradients are added up before they come together in float32; that stays so.
    """
    return {
        number
        for number, owners in _owners(module).items()
        if len(owners) == 1
        and type(owners[0][0]) in CAST_LAYERS
        and owners[0][0]._parameters[owners[0][1]].dtype == torch.float32
    }
