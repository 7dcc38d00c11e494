"""Where the negatives come from: the queue of the newest keys.

N: keys enqueued at once   K: keys in the dictionary   C: embedding width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Queue(nn.Module):
    """First-in, first-out dictionary of the newest K keys, float32, starting as random unit vectors.

    Its keys and pointer are buffers, so a checkpoint holds them. Any K and any number of new keys fit: writing wraps
    around, and where more than K keys come at once the newest K stay. Source: He et al. 2020, section 3.1.

    Args:
        dictionary_size: K, at least 1.
        embedding_dim: C, at least 1.

    Raises:
        ValueError: a size below 1.
    """

    keys_KC: Tensor
    pointer: Tensor

    def __init__(self, dictionary_size: int, embedding_dim: int) -> None:
        super().__init__()
        if dictionary_size < 1:
            raise ValueError(f"dictionary_size={dictionary_size}: need at least 1, or choose the end-to-end mechanism")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim={embedding_dim}: need at least 1")
        self.register_buffer("keys_KC", functional.normalize(torch.randn(dictionary_size, embedding_dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return self.keys_KC.shape[0]

    @torch.no_grad()
    def enqueue(self, keys_NC: Tensor) -> None:
        """Write the newest keys over the oldest ones, in order; the pointer then names the oldest key.

        Raises:
            ValueError: the keys are not (N, C).
        """
        size, width = self.keys_KC.shape
        if keys_NC.ndim != 2 or keys_NC.shape[1] != width:
            raise ValueError(f"keys of shape {tuple(keys_NC.shape)}: expected (N, {width})")
        count = keys_NC.shape[0]
        kept = min(count, size)
        # Indices stay on the device: reading the pointer on the host would stall a GPU at every step.
        places = (self.pointer + torch.arange(count - kept, count, device=self.pointer.device)) % size
        self.keys_KC.index_copy_(0, places, keys_NC[count - kept :].to(self.keys_KC.dtype))
        self.pointer.add_(count).remainder_(size)

    def extra_repr(self) -> str:
        """Sizes, for the printed module."""
        return f"dictionary_size={self.keys_KC.shape[0]}, embedding_dim={self.keys_KC.shape[1]}"
