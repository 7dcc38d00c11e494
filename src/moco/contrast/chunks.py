"""A large batch in the memory of a small one: gradient caching, Gao et al. 2021 (2101.06983).

The batch is encoded in chunks and nothing but the embeddings is kept; backward has the gradient of the whole batch's
loss with respect to them, and encodes one chunk after the other again to go on from there. PyTorch's checkpointing does
both passes, with the same random numbers (dropout) in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moco.contrast.batch import batch_length, select


class InChunks(nn.Module):
    """An encoder that visits its batch in chunks: memory of one chunk's activations, gradients of the whole batch.

    Give it to `ContrastiveModel.run_encoders_with`, inside DistributedDataParallel where there are several ranks, which
    then average gradients once. Costs a second forward pass of what learns. BatchNorm's statistics are those of a
    chunk; its running averages move once for each chunk.

    Args:
        encoder: from a batch to (N, C) embeddings.
        chunk_size: samples in a chunk, at least 1; the last one may be smaller.
        encode: calls the encoder, if not as it is (compiled, under autocast).

    Raises:
        ValueError: a chunk size below 1.
    """

    def __init__(self, encoder: nn.Module, chunk_size: int, *, encode: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: need at least 1")
        self.encoder, self.chunk_size = encoder, chunk_size
        self._encode = encoder if encode is None else encode

    def forward(self, batch: Any) -> Tensor:
        """Embeddings (N, C) in the order of the samples."""
        length, device = batch_length(batch)
        chunks = torch.split(torch.arange(length, device=device), self.chunk_size)
        return torch.cat([self._one(select(batch, chunk)) for chunk in chunks])

    def _one(self, chunk: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return self._encode(chunk)
        again = (nullcontext(), _private_buffers(self.encoder))
        embeddings: Tensor = checkpoint(self._encode, chunk, use_reentrant=False, context_fn=lambda: again)
        return embeddings


@contextmanager
def _private_buffers(module: nn.Module) -> Iterator[None]:
    """Inside, the module changes copies of its buffers: the second pass must not count in BatchNorm's averages."""
    owners = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
    try:
        for part, name, buffer in owners:
            part._buffers[name] = None if buffer is None else buffer.clone()
        yield
    finally:
        for part, name, buffer in owners:
            part._buffers[name] = buffer
