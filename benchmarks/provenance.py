"""Where a figure comes from."""

from __future__ import annotations

import subprocess
from typing import Any

import torch

from moco import hardware
from moco.summary import versions


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Hardware, commit and versions, for the JSON file beside a figure; a + marks a commit with changes not in it."""
    commit, changes = (_git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no"))
    return {
        "hardware": hardware.name(device or torch.device("cpu")),
        "commit": commit + ("+" if changes else ""),
        "versions": versions(),
    }


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        return ""
