"""What this process computes on, in words and numbers. Loads without PyTorch."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name as the system tells it; empty where it tells none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def name(device: torch.device) -> str:
    """The GPU, or the processor with its cores."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return f"{processor() or device.type}, {cores()} cores"
