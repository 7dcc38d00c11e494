"""Keys in fewer bits, number by number: what the queue's `ScaledKeys` and bf16 are compared with."""

from __future__ import annotations

import numpy as np


def int8_keys(keys: np.ndarray) -> np.ndarray:
    """Each key in steps of its largest magnitude / 127, to the nearest, ties to even."""
    stored = np.zeros_like(keys, dtype=np.float32)
    for row, key in enumerate(keys):
        scale = np.float32(max(abs(float(value)) for value in key)) / np.float32(127)
        for column, value in enumerate(key):
            stored[row, column] = np.float32(round(float(np.float32(value) / scale))) * scale if scale else 0.0
    return stored


def bf16_keys(keys: np.ndarray) -> np.ndarray:
    """float32 whose last 16 bits are rounded away, to the nearest, ties to even."""
    bits = keys.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
