"""A batch of any kind: a tensor, or tensors in tuples, lists and dicts, with samples along dimension 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from moco.contrast.collective import all_gather_cat


def select(batch: Any, index: Tensor) -> Any:
    """Take samples along dimension 0 of a tensor, or of every tensor in a tuple, list or dict."""
    return pytree.tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, batch)


def gather_batch(batch: Any) -> Any:
    """Every rank's batch, one after the other in rank order; what is not a tensor stays this rank's own."""
    return pytree.tree_map(lambda leaf: all_gather_cat(leaf) if isinstance(leaf, Tensor) else leaf, batch)


def batch_length(batch: Any) -> tuple[int, torch.device]:
    """Number of samples and device of a batch of tensors.

    Raises:
        ValueError: no tensor in it, or tensors that disagree about the number of samples.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    lengths = sorted({leaf.shape[0] if leaf.ndim else 0 for leaf in leaves})
    if len(lengths) != 1:
        raise ValueError(f"a batch whose tensors have {lengths} samples: expected one or more tensors that agree")
    return lengths[0], leaves[0].device
