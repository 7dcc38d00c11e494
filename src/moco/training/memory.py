"""What memory there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

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
