"""What memory there is, and whether a run has any chance to fit into it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from moco.config import Config
from moco.errors import ConfigError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def memory_bytes(device: torch.device) -> float:
    """Bytes of the device, or of the machine as far as this process may use it."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    for path in map(Path, _LIMITS):
        try:
            found.append(float(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return min(found, default=8.0 * 2**30)


def check_memory(config: Config, device: torch.device, images: int) -> None:
    """Refuse what cannot fit: keys, views of a batch and head alone need more than the device has.

    Raises:
        ConfigError: the option that takes most is named.
    """
    pixels, four = int(np.prod(np.broadcast_to(config.image_size, 2))), 4  # bytes of a float32
    keys = images if config.mechanism == "memory-bank" else config.dictionary_size or 0
    needs = {
        f"dictionary_size={config.dictionary_size}": four * config.embedding_dim * keys,
        f"batch_size={config.batch_size} at image_size={config.image_size}": (
            four * 2 * config.batch_size_per_rank * (config.channels or 3) * pixels
        ),
        f"hidden_dim={config.hidden_dim}, embedding_dim={config.embedding_dim}": (
            four * 4 * (config.hidden_dim or 0) * config.embedding_dim  # f_q, f_k, gradient, momentum
        ),
    }
    most, there = max(needs, key=lambda name: needs[name]), memory_bytes(device)
    if sum(needs.values()) > there:
        gib = needs[most] / 2**30
        raise ConfigError(f"{most}: {gib:,.0f} GiB of memory, here are {there / 2**30:,.0f}: choose less")
