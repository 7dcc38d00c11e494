"""Where a figure comes from."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from moco.data.workers import cores
from moco.version import versions


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Hardware, commit and versions, for the JSON file beside a figure; a + marks a commit with changes not in it."""
    commit, changes = (_git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no"))
    return {
        "hardware": hardware(device or torch.device("cpu")),
        "commit": commit + ("+" if changes else ""),
        "versions": versions(),
    }


def hardware(device: torch.device) -> str:
    """The GPU, or the processor with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.processor())}, {cores()} cores"


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        return ""
