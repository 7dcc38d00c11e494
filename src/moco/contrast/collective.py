"""The only file that calls torch.distributed. On one process each function is an identity.

N: samples on this rank   W: number of ranks
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

# Shapes are exchanged padded to this many dimensions, because ranks may disagree about that number too.
MAX_DIMS = 8
_agreed = False


@contextmanager
def shapes_agreed() -> Iterator[None]:
    """Inside, ranks gather without comparing their shapes first, for which a GPU's host waits each time.

    For whoever makes batches of one shape on all ranks: others would hang or mix samples.
    """
    global _agreed
    before, _agreed = _agreed, True
    try:
        yield
    finally:
        _agreed = before


def world_size() -> int:
    """Number of processes that train together; 1 when no process group is initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number in 0..world_size()-1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather_cat(local: Tensor) -> Tensor:
    """Concatenate every rank's tensor along dimension 0, in rank order.

    A tensor that asks for a gradient gets the sum of those that the ranks have for it: with the gradients of the
    weights averaged over ranks, as DistributedDataParallel does, that is the gradient of the mean of the ranks' losses.

    The tensors must have the same shape on all ranks, which is checked: a short last batch, or text padded to another
    length, on one rank would otherwise hang or mix samples. Inside `shapes_agreed` it is taken for granted.

    Raises:
        ValueError: the ranks' shapes differ.
    """
    if world_size() == 1:
        return local
    if not _agreed:
        _check_shapes(local)
    gathered: Tensor = _AllGather.apply(local)
    return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def _check_shapes(local: Tensor) -> None:
    shapes = _gather_shapes(local)
    if len(set(shapes)) != 1:
        raise ValueError(
            f"ranks hold batches of shapes {shapes}: give every rank the same number of samples, in one shape "
            "(drop the last partial batch, pad alike)"
        )


def _gather_shapes(local: Tensor) -> list[tuple[int, ...]]:
    own = torch.full((MAX_DIMS,), -1)
    own[: local.ndim] = torch.tensor(local.shape)
    everyone = [torch.empty_like(own, device=local.device) for _ in range(world_size())]
    dist.all_gather(everyone, own.to(local.device))
    return [tuple(size for size in sizes if size >= 0) for sizes in torch.stack(everyone).tolist()]


def shared_permutation(length: int, device: torch.device, *, count: int | None = None) -> Tensor:
    """One random permutation of 0..length-1, drawn by rank 0 from its global CPU generator, agreed by all ranks.

    Every rank draws, so that their generators advance together, and rank 0's draw is the one used. `count` keeps the
    first so many numbers.
    """
    order = torch.randperm(length)[:count].to(device, non_blocking=True)
    if world_size() > 1:
        dist.broadcast(order, src=0)
    return order


@torch.no_grad()
def copy_from_first_(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors with rank 0's, so that every rank starts from the same weights and queue."""
    if world_size() == 1:
        return
    for tensor in tensors:
        on_gpu = dist.get_backend() == "nccl" and not tensor.is_cuda  # NCCL carries nothing that lies on the host
        carrier = (tensor.cuda() if on_gpu else tensor).detach().contiguous()
        dist.broadcast(carrier, src=0)
        tensor.copy_(carrier)


@torch.no_grad()
def average_(tensors: Sequence[Tensor]) -> None:
    """Replace the tensors, of one type and device, by their means over the ranks.

    In one exchange, so that each value is summed in the same order every time. DistributedDataParallel sorts its
    buckets anew after the first step; with three ranks or more a resumed run then differs in its last bits.
    """
    if world_size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
