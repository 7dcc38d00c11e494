"""A batch of any kind: tensors or packed sequences, alone or in tuples, lists and dicts; samples along dimension 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import rnn
from torch.utils import _pytree as pytree

from moco.contrast.collective import all_gather_cat, world_size

UNKNOWN_LENGTH = -1


def select(batch: Any, index: Tensor) -> Any:
    """Take samples along dimension 0 of every tensor; packed sequences and jagged tensors are packed anew."""
    return pytree.tree_map(lambda leaf: _select(leaf, index), _plain(batch), is_leaf=_is_packed)


def gather_batch(batch: Any) -> Any:
    """Every rank's batch, one after the other in rank order; what is not a tensor stays this rank's own.

    Raises:
        ValueError: packed sequences on several ranks.
    """
    return pytree.tree_map(_gather, _plain(batch), is_leaf=_is_packed)


def batch_length(batch: Any, *, known: bool = True) -> tuple[int, torch.device]:
    """Number of samples and device of a batch of tensors.

    Args:
        batch: of any kind.
        known: whether it must be. If not, tensors may disagree, as tokens in one row with their offsets do, or there
            may be none, and the length is `UNKNOWN_LENGTH`.

    Raises:
        ValueError: no tensor in it, or tensors that disagree about the number of samples, where it must be known.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(_plain(batch), is_leaf=_is_packed) if _is_samples(leaf)]
    lengths = sorted({_length(leaf) for leaf in leaves})
    if len(lengths) != 1 and known:
        raise ValueError(f"a batch whose tensors have {lengths} samples: expected one or more tensors that agree")
    device = leaves[0].data.device if leaves else torch.device("cpu")
    return (lengths[0] if len(lengths) == 1 else UNKNOWN_LENGTH), device


def _plain(batch: Any) -> Any:
    """Tokenizers give mappings that are no dicts."""
    return dict(batch) if isinstance(batch, Mapping) and not isinstance(batch, dict) else batch


def _is_packed(leaf: Any) -> bool:
    return isinstance(leaf, rnn.PackedSequence)


def _is_samples(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) or _is_packed(leaf)


def _length(leaf: Any) -> int:
    if _is_packed(leaf):
        return int(leaf.batch_sizes[0])
    return leaf.shape[0] if leaf.ndim else 0


def _select(leaf: Any, index: Tensor) -> Any:
    if _is_packed(leaf):
        sequences = rnn.unpack_sequence(leaf)
        return rnn.pack_sequence([sequences[i] for i in index.tolist()], enforce_sorted=False)
    if isinstance(leaf, Tensor) and leaf.is_nested:
        sequences = list(leaf.unbind())
        return torch.nested.nested_tensor_from_jagged(
            torch.cat([sequences[i] for i in index.tolist()]), lengths=None, offsets=_offsets(sequences, index)
        )
    return leaf[index] if isinstance(leaf, Tensor) else leaf


def _offsets(sequences: list[Tensor], index: Tensor) -> Tensor:
    lengths = torch.tensor([0, *(len(sequences[i]) for i in index.tolist())])
    return lengths.cumsum(0).to(sequences[0].device)


def _gather(leaf: Any) -> Any:
    if world_size() > 1 and (_is_packed(leaf) or (isinstance(leaf, Tensor) and leaf.is_nested)):
        raise ValueError("packed sequences with keys that are shuffled over ranks: pad them, or batchnorm='none'")
    return all_gather_cat(leaf) if isinstance(leaf, Tensor) else leaf
