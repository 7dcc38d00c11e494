"""First-in, first-out dictionary as a bounded deque, and the place where each key lies in a ring."""

from __future__ import annotations

from collections import deque

import numpy as np


class DequeQueue:
    """The newest K keys, oldest first; `ring` lays them out as an array that is written round and round."""

    def __init__(self, keys_KC: np.ndarray) -> None:
        self.keys: deque[np.ndarray] = deque((key.copy() for key in keys_KC), maxlen=len(keys_KC))
        self.written = 0

    def enqueue(self, keys_NC: np.ndarray) -> None:
        """One key after the other; the deque drops the oldest."""
        for key in keys_NC:
            self.keys.append(key.copy())
            self.written += 1

    @property
    def pointer(self) -> int:
        """Row of the oldest key in the ring."""
        return self.written % len(self.keys)

    def ring(self) -> np.ndarray:
        """(K, C): key number i since the start lies in row i mod K."""
        rows: list[np.ndarray | None] = [None] * len(self.keys)
        for age, key in enumerate(self.keys):
            rows[(self.pointer + age) % len(rows)] = key
        return np.stack(rows)  # type: ignore[arg-type]
