"""A large batch in the memory of a small one: gradient caching, Gao et al. 2021 (2101.06983).

The batch is encoded in chunks and nothing but the embeddings is kept; backward has the gradient of the whole batch's
loss with respect to them, and encodes one chunk after the other again to go on from there. PyTorch's checkpointing does
both passes, with the same random numbers (dropout) in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from moco.contrast.batch import batch_length, select


class InChunks(nn.Module):
    """An encoder that visits its batch in chunks: memory of one chunk's activations, gradients of the whole batch.

    Give it to `ContrastiveModel.run_encoders_with`, inside DistributedDataParallel where there are several ranks, which
    then average gradients once. Costs a second forward pass of what learns. BatchNorm's statistics are those of a
    chunk; its running averages move once for each chunk, and in the first pass alone.

    Args:
        encoder: from a batch to (N, C) embeddings.
        chunk_size: samples in a chunk at most, at least 1. Chunks are as few as that allows, and of equal size, but for
            one sample.
        encode: calls the encoder, if not as it is (compiled, under autocast).
        shuffle: draw a chunk's samples from the whole batch, with the global CPU generator; embeddings come back in the
            order of the samples. For keys whose BatchNorm company would otherwise be their queries'.

    Raises:
        ValueError: a chunk size below 1.
    """

    def __init__(
        self,
        encoder: nn.Module,
        chunk_size: int,
        *,
        encode: Callable[[Any], Tensor] | None = None,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: need at least 1")
        self.encoder, self.chunk_size, self.shuffle = encoder, chunk_size, shuffle
        self._encode = encoder if encode is None else encode

    def forward(self, batch: Any) -> Tensor:
        """Embeddings (N, C) in the order of the samples."""
        length, device = batch_length(batch)
        if not self.shuffle or not self.training:
            return self._in_order(batch, length)
        order = torch.randperm(length).to(device, non_blocking=True)
        return self._in_order(select(batch, order), length)[order.argsort()]

    def _in_order(self, batch: Any, length: int) -> Tensor:
        return torch.cat([self._one(chunk) for chunk in _parts(batch, -(-length // self.chunk_size))])

    def _one(self, chunk: Any) -> Tensor:
        # Weights that autocast has cached as bf16 would add up all chunks' gradients in bf16.
        torch.clear_autocast_cache()
        if not torch.is_grad_enabled():
            return self._encode(chunk)
        again = (nullcontext(), _Buffers(self.encoder))
        embeddings: Tensor = checkpoint(self._encode, chunk, use_reentrant=False, context_fn=lambda: again)
        return embeddings


def _parts(batch: Any, count: int) -> list[Any]:
    """So many parts of a batch, of equal size but for one sample: views, as they are kept until the backward pass."""
    leaves, structure = pytree.tree_flatten(batch)
    split = [leaf.tensor_split(count) if isinstance(leaf, Tensor) else [leaf] * count for leaf in leaves]
    return [pytree.tree_unflatten(part, structure) for part in zip(*split, strict=True)]


class _Buffers:
    """A context for the second pass: buffers are copies of what the first pass found; what is done to them is lost.

    BatchNorm's averages take a chunk once, and what an encoder computes from its buffers is the same again.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [(part._buffers, name) for part in module.modules() for name in part._buffers]
        self._copies = _copied(buffers[name] for buffers, name in self._places)
        self._present: list[Tensor | None] = []

    def __enter__(self) -> None:
        self._present = [buffers[name] for buffers, name in self._places]
        self._put(_copied(self._copies))

    def __exit__(self, *_: object) -> None:
        self._put(self._present)

    def _put(self, values: list[Tensor | None]) -> None:
        for (buffers, name), value in zip(self._places, values, strict=True):
            buffers[name] = value


def _copied(values: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [None if value is None else value.clone() for value in values]
