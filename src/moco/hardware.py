"""What this process computes on, in words and numbers. Loads without PyTorch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Parameters of glibc's mallopt: no mapping of its own for a large tensor, and nothing handed back in between. Otherwise
# each step asks the kernel for its activations again, page by page: 7,500 page faults a ResNet-18 step (docs/log.md).
# All threads share one heap, because those of threads are handed back whatever was set.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
SETTINGS = {
    # OpenMP threads that spin long while they wait slow a busy machine down many times over; threads that never spin
    # slow a quiet one (docs/log.md, 2026-11-24).
    "GOMP_SPINCOUNT": "1000",
    # MKL's own memory has locks that a forked process finds taken for ever, if another thread had them at that moment.
    "MKL_DISABLE_FAST_MM": "1",
}
_ours = False


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


def settle() -> None:
    """Set this process up for training; for programs, the command first of all, and not for a library.

    To be called before PyTorch is loaded, which reads the environment then.
    """
    global _ours
    _ours = "torch" not in sys.modules or SETTINGS.keys() <= os.environ.keys()
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    keep_freed_memory()


@contextlib.contextmanager
def convolutions_tried() -> Iterator[None]:
    """Inside, cuDNN tries its ways to convolve on each new shape and keeps the fastest; a run has few shapes.

    They round differently, so that on a GPU runs of the same seed are alike, but not to the bit.
    """
    import torch

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def can_fork(*, multiply: bool = True) -> bool:
    """Whether a process that is forked from this one can compute: on Linux, if this one was settled in time.

    `multiply`: matrices, with MKL; what does without them needs no settling.
    """
    settled = _ours and os.environ.get("MKL_DISABLE_FAST_MM") == "1"
    return sys.platform.startswith("linux") and (settled or not multiply)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed. Elsewhere it does nothing."""
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Let glibc hand back what is free now; a process that is forked would keep it from then on."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
