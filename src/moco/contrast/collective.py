"""The only file that calls torch.distributed. On one process each function is an identity.

N: samples on this rank   W: number of ranks
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 when no process group is initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number in 0..world_size()-1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather_cat(local: Tensor) -> Tensor:
    """Concatenate every rank's tensor along dimension 0, in rank order; without gradient.

    The tensors must have the same shape on all ranks, which is checked: a short last batch on one rank would
    otherwise hang or mix samples.

    Raises:
        ValueError: the ranks' shapes differ.
    """
    if world_size() == 1:
        return local
    length = torch.tensor([local.shape[0]], device=local.device)
    lengths = [torch.empty_like(length) for _ in range(world_size())]
    dist.all_gather(lengths, length)
    if len({int(n) for n in lengths}) != 1:
        raise ValueError(
            f"ranks hold batches of {[int(n) for n in lengths]} samples: give every rank the same number "
            "(drop the last partial batch)"
        )
    parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, local.detach().contiguous())
    return torch.cat(parts)


def shared_permutation(length: int, device: torch.device) -> Tensor:
    """One random permutation of 0..length-1, drawn by rank 0 from its global CPU generator, agreed by all ranks.

    Every rank draws, so that their generators advance together, and rank 0's draw is the one used.
    """
    order = torch.randperm(length).to(device)
    if world_size() > 1:
        dist.broadcast(order, src=0)
    return order
