"""Momentum contrast: pretrain an encoder on images without labels.

    moco.pretrain("photos/", out="runs/photos", backbone="resnet18", image_size=64)
    moco.evaluate("runs/photos", train="photos/train", test="photos/val")

The algorithm alone, for any module and any kind of data, is `moco.contrast`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moco.version import __version__

if TYPE_CHECKING:
    from moco import contrast
    from moco.commands.evaluate import evaluate
    from moco.commands.pretrain import Run, pretrain
    from moco.config import Config
    from moco.errors import MocoError

__all__ = ["Config", "MocoError", "Run", "__version__", "contrast", "evaluate", "pretrain"]

# Importing PyTorch takes seconds; `moco --help` and a configuration error must not wait for it.
_HOMES = {
    "Config": "moco.config",
    "MocoError": "moco.errors",
    "Run": "moco.commands.pretrain",
    "evaluate": "moco.commands.evaluate",
    "pretrain": "moco.commands.pretrain",
}


def __getattr__(name: str) -> Any:
    if name == "contrast":
        return importlib.import_module("moco.contrast")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'moco' has no attribute {name!r}")
