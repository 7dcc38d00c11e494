"""Where the negatives come from: the queue of the newest keys, or a bank with one embedding for each sample.

N: keys enqueued at once, samples of a step   K: keys in the dictionary   M: samples in the bank   C: embedding width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from moco.contrast.collective import shared_permutation
from moco.contrast.stored_keys import STORED_AS, DictionaryDtype, ScaledKeys

WithIds = tuple[Tensor, Tensor]  # keys (N, C) and the numbers (N,) of their samples
_AT_ONCE = 4096  # keys that are made as floats before they are stored in fewer bits


def apart(keys: Tensor | WithIds) -> tuple[Tensor, Tensor | None]:
    """Keys and their ids, None where they have none."""
    return (keys, None) if isinstance(keys, Tensor) else keys


class Queue(nn.Module):
    """First-in, first-out dictionary of the newest K keys, starting as random unit vectors.

    Its keys and pointer are buffers, so a checkpoint holds them. Any K and any number of new keys fit: writing wraps
    around, and where more than K keys come at once the newest K stay. Source: He et al. 2020, section 3.1.

    Args:
        dictionary_size: K, at least 1.
        embedding_dim: C, at least 1.
        dtype: of the stored keys: fp32; bf16; or int8 with a scale in float32 for each key, 4 and 1 + 4/C bytes for
            each of the K x C numbers. They are never made into floats all at once.
        with_ids: whether the number of each key's sample is kept, for losses that take `ids_K`.

    Attributes:
        keys_KC: the keys as they are stored, of an int8 queue the codes; `keys` is what a loss takes.
        scales_K: of the keys of an int8 queue, else None.
        ids_K: int64 numbers of the keys' samples, -1 for the random ones at the start; None without ids.
        pointer: place of the oldest key, which is the next to leave.

    Raises:
        ValueError: a size below 1, or an unknown dtype.
    """

    keys_KC: Tensor
    scales_K: Tensor | None
    ids_K: Tensor | None
    pointer: Tensor

    def __init__(
        self, dictionary_size: int, embedding_dim: int, *, dtype: DictionaryDtype = "fp32", with_ids: bool = False
    ) -> None:
        super().__init__()
        if dictionary_size < 1:
            raise ValueError(f"dictionary_size={dictionary_size}: need at least 1, or choose the end-to-end mechanism")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim={embedding_dim}: need at least 1")
        if dtype not in STORED_AS:
            raise ValueError(f"dtype={dtype!r} of the dictionary: choose one of {', '.join(STORED_AS)}")
        if dtype == "fp32":
            self.register_buffer("keys_KC", functional.normalize(torch.randn(dictionary_size, embedding_dim), dim=1))
        else:
            self.register_buffer("keys_KC", torch.zeros(dictionary_size, embedding_dim, dtype=STORED_AS[dtype]))
        self.register_buffer("scales_K", torch.zeros(dictionary_size) if dtype == "int8" else None)
        self.register_buffer("ids_K", torch.full((dictionary_size,), -1) if with_ids else None)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        for first in range(0, dictionary_size if dtype != "fp32" else 0, _AT_ONCE):
            places_J = torch.arange(first, min(first + _AT_ONCE, dictionary_size))
            self._write_(places_J, functional.normalize(torch.randn(len(places_J), embedding_dim), dim=1))

    def __len__(self) -> int:
        return self.keys_KC.shape[0]

    @property
    def keys(self) -> Tensor | ScaledKeys:
        """The K keys, as `scored_info_nce` takes them."""
        return self.keys_KC if self.scales_K is None else ScaledKeys(self.keys_KC, self.scales_K)

    @torch.no_grad()
    def enqueue(self, keys_NC: Tensor, ids_N: Tensor | None = None) -> None:
        """Write the newest keys over the oldest ones, in order; the pointer then names the oldest key.

        A key that is infinite or no number is not written: what it would replace stays.

        Args:
            keys_NC: of all ranks.
            ids_N: int64 numbers of their samples, for a queue with ids and for no other.

        Raises:
            ValueError: the keys are not (N, C), or ids that are missing, not kept or not (N,).
        """
        size, width = self.keys_KC.shape
        if keys_NC.ndim != 2 or keys_NC.shape[1] != width:
            raise ValueError(f"keys of shape {tuple(keys_NC.shape)}: expected (N, {width})")
        count = keys_NC.shape[0]
        if (ids_N is None) != (self.ids_K is None) or (ids_N is not None and ids_N.shape != (count,)):
            expected = "none, as the queue keeps no ids" if self.ids_K is None else f"({count},)"
            raise ValueError(f"ids {None if ids_N is None else tuple(ids_N.shape)} of the keys: expected {expected}")
        kept = min(count, size)
        # Indices stay on the device: reading the pointer on the host would stall a GPU at every step.
        places = (self.pointer + torch.arange(count - kept, count, device=self.pointer.device)) % size
        if self.ids_K is not None and ids_N is not None:
            written_N = keys_NC[count - kept :].isfinite().all(dim=1)
            self.ids_K[places] = torch.where(written_N, ids_N[count - kept :], self.ids_K[places])
        self._write_(places, keys_NC[count - kept :])
        self.pointer.add_(count).remainder_(size)

    def _write_(self, places_N: Tensor, keys_NC: Tensor) -> None:
        if self.scales_K is None:
            newest_NC = keys_NC.to(self.keys_KC.dtype)
            self.keys_KC.index_copy_(0, places_N, _finite_rows(newest_NC, self.keys_KC[places_N]))
            return
        newest, finite_N = ScaledKeys.of(keys_NC), keys_NC.isfinite().all(dim=1)
        codes_NC = torch.where(finite_N[:, None], newest.codes_KC, self.keys_KC[places_N])
        self.keys_KC.index_copy_(0, places_N, codes_NC)
        self.scales_K.index_copy_(0, places_N, torch.where(finite_N, newest.scales_K, self.scales_K[places_N]))


class Bank(nn.Module):
    """One embedding for each of M samples, float32, starting as random unit vectors; a buffer, so checkpoints hold it.

    Its memory is M x C numbers: 1.3 million samples with C = 128 take 0.6 GiB. Source: Wu et al. 2018 (1805.01978).

    Args:
        num_samples: M, at least 1.
        embedding_dim: C, at least 1.

    Raises:
        ValueError: a size below 1.
    """

    embeddings_MC: Tensor

    def __init__(self, num_samples: int, embedding_dim: int) -> None:
        super().__init__()
        if num_samples < 1 or embedding_dim < 1:
            raise ValueError(f"num_samples={num_samples}, embedding_dim={embedding_dim}: need at least 1 of each")
        self.register_buffer("embeddings_MC", functional.normalize(torch.randn(num_samples, embedding_dim), dim=1))

    def __len__(self) -> int:
        return self.embeddings_MC.shape[0]

    def draw(self, count: int) -> Tensor:
        """The numbers of `count` different samples, uniformly at random, ascending; the same on all ranks.

        Drawn from the global CPU generator, and not drawn at all where all are wanted.
        """
        device = self.embeddings_MC.device
        if count >= len(self):
            return torch.arange(len(self), device=device)
        return shared_permutation(len(self), device, count=count).sort().values

    @torch.no_grad()
    def update_(self, indices_N: Tensor, q_NC: Tensor, *, bank_momentum: float) -> None:
        """v_i <- normalize(m v_i + (1 - m) q_i) for the samples of a step; all others stay.

        Where a sample occurs several times in `indices_N`, all its queries are added. A query that is infinite or no
        number changes nothing.
        """
        stored_NC = self.embeddings_MC[indices_N]
        q_NC = _finite_rows(q_NC.to(stored_NC.dtype), stored_NC)
        self.embeddings_MC.index_copy_(0, indices_N, stored_NC * bank_momentum)
        self.embeddings_MC.index_add_(0, indices_N, q_NC, alpha=1.0 - bank_momentum)
        self.embeddings_MC.index_copy_(0, indices_N, functional.normalize(self.embeddings_MC[indices_N], dim=1))


def _finite_rows(new_NC: Tensor, old_NC: Tensor) -> Tensor:
    """The new rows, but old ones where a value is infinite or no number; the host does not wait to see which."""
    return torch.where(new_NC.isfinite().all(dim=1, keepdim=True), new_NC, old_NC)


def rows_of(indices_N: Tensor, drawn_K: Tensor) -> Tensor:
    """Where in ascending `drawn_K` each number stands, -1 where it was not drawn; K is at least 1."""
    row_N = torch.searchsorted(drawn_K, indices_N).clamp_(max=len(drawn_K) - 1)
    return torch.where(drawn_K[row_N] == indices_N, row_N, -1)
