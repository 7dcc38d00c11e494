"""Which keys are negatives: those of a batch and a queue as one dictionary, and which of them are not for which query.

N: queries   K: keys in the dictionary   B: keys of the batch   J: keys of a chunk   C: embedding width
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from moco.contrast.stored_keys import ScaledKeys


@dataclasses.dataclass(frozen=True)
class JoinedKeys:
    """The keys of a batch, then those of a queue, without a copy of either: a slice joins what it needs."""

    batch_BC: Tensor
    queue_KC: Tensor | ScaledKeys

    @property
    def shape(self) -> torch.Size:
        """(B + K, C)."""
        return torch.Size((len(self), self.batch_BC.shape[1]))

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def requires_grad(self) -> bool:
        """No: keys with a gradient are joined by `torch.cat`."""
        return False

    def __len__(self) -> int:
        return len(self.batch_BC) + len(self.queue_KC)

    def __getitem__(self, some: slice) -> JoinedKeys:
        first, last, _ = some.indices(len(self))
        held = len(self.batch_BC)
        return JoinedKeys(self.batch_BC[first:last], self.queue_KC[max(first - held, 0) : max(last - held, 0)])

    def to(self, dtype: torch.dtype) -> Tensor:
        """The keys in this floating-point precision, (B + K, C)."""
        if len(self.batch_BC) == 0:
            return self.queue_KC.to(dtype)
        return torch.cat([self.batch_BC.to(dtype), self.queue_KC.to(dtype)])


Keys = Tensor | ScaledKeys | JoinedKeys


class Excluded(NamedTuple):
    """Rows of the dictionary that are no negatives of a query.

    Attributes:
        own_N: one row for each query, -1 for none.
        ids_N, ids_K: numbers of the queries' samples and of the dictionary's, equal for one and the same sample. A
            negative number is no sample's, and equals none.
    """

    own_N: Tensor | None = None
    ids_N: Tensor | None = None
    ids_K: Tensor | None = None

    def check(self, queries: int, keys: int) -> None:
        """Raise ValueError where a length does not fit."""
        if self.own_N is not None and self.own_N.shape != (queries,):
            raise ValueError(f"own rows of shape {tuple(self.own_N.shape)}: expected ({queries},), one for each query")
        if (self.ids_N is None) != (self.ids_K is None):
            raise ValueError("ids of the queries alone, or of the dictionary alone: give both or none")
        if self.ids_N is not None and self.ids_K is not None:
            shapes = tuple(self.ids_N.shape), tuple(self.ids_K.shape)
            if shapes != ((queries,), (keys,)):
                raise ValueError(f"ids of shapes {shapes[0]} and {shapes[1]}: expected ({queries},) and ({keys},)")

    def check_decoupled(self, keys: int) -> None:
        """Raise ValueError where a query may be left without any negative, and so without a denominator."""
        if self.ids_N is not None:
            raise ValueError("decoupled loss with ids: they may leave a query without any negative, drop one of them")
        if keys < (1 if self.own_N is None else 2):
            raise ValueError(f"decoupled loss with {keys} keys: a query needs at least one negative")

    def rows(self, tile: slice) -> Excluded:
        """The same for some of the queries."""
        own_N = None if self.own_N is None else self.own_N[tile]
        return Excluded(own_N, None if self.ids_N is None else self.ids_N[tile], self.ids_K)

    def hide_(self, logits_NJ: Tensor, first: int) -> None:
        """Minus infinity in place of their logits; `first` is the chunk's first row in the dictionary."""
        if self.own_N is not None:  # one element in each row, found without asking the device how many there are
            place_N1 = (self.own_N - first).clamp(0, logits_NJ.shape[1] - 1)[:, None]
            is_own_N1 = place_N1 + first == self.own_N[:, None]
            value_N1 = logits_NJ.gather(1, place_N1).masked_fill_(is_own_N1, -torch.inf)
            logits_NJ.scatter_(1, place_N1, value_N1)
        if self.ids_N is not None and self.ids_K is not None:
            ids_N1, ids_J = self.ids_N[:, None], self.ids_K[first : first + logits_NJ.shape[1]]
            logits_NJ.masked_fill_((ids_N1 == ids_J) & (ids_N1 >= 0), -torch.inf)
