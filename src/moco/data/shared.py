"""Memory that processes share which are forked later."""

from __future__ import annotations

import math
import mmap

import numpy as np


def shared_zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """An array of zeros in memory without a name; it is taken as it is written and ends with the last process."""
    count = math.prod(shape)
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)
