"""Momentum contrast: pretrain an encoder on images without labels.

    moco.pretrain("photos/", out="runs/photos", backbone="resnet18", image_size=64)
    moco.evaluate("runs/photos", train="photos/train", test="photos/val")

The algorithm alone, for any module and any kind of data, is `moco.contrast`.
"""

from __future__ import annotations

import importlib

from moco.version import __version__

TYPE_CHECKING = False  # `typing` takes longer to load than all that the command needs before Ctrl-C is safe
if TYPE_CHECKING:
    from typing import Any

    from moco import contrast
    from moco.commands.ablate import ablate
    from moco.commands.embed import Embedded, embed
    from moco.commands.evaluate import evaluate
    from moco.commands.export import Exported, export_weights
    from moco.commands.import_weights import Imported, import_weights
    from moco.commands.neighbours import Neighbours, neighbours
    from moco.commands.pack import Packed, pack
    from moco.commands.pretrain import Run, pretrain
    from moco.commands.scenes import Scenes, scenes
    from moco.commands.transfer import transfer
    from moco.config import Config
    from moco.data.preprocess import Preprocessing
    from moco.errors import MocoError
    from moco.evaluation.report import Report
    from moco.export.load import Pretrained, load
    from moco.sweep.report import Ablation
    from moco.training.callbacks import Callback
    from moco.transfer.fine_tuning.comparison import Comparison

__all__ = [
    "Ablation",
    "Callback",
    "Comparison",
    "Config",
    "Embedded",
    "Exported",
    "Imported",
    "MocoError",
    "Neighbours",
    "Packed",
    "Preprocessing",
    "Pretrained",
    "Report",
    "Run",
    "Scenes",
    "__version__",
    "ablate",
    "contrast",
    "embed",
    "evaluate",
    "export_weights",
    "import_weights",
    "load",
    "neighbours",
    "pack",
    "pretrain",
    "scenes",
    "transfer",
]

# Importing PyTorch takes seconds; `moco --help` and a configuration error must not wait for it.
_HOMES = {
    "Ablation": "moco.sweep.report",
    "Callback": "moco.training.callbacks",
    "Comparison": "moco.transfer.fine_tuning.comparison",
    "Config": "moco.config",
    "Embedded": "moco.commands.embed",
    "Exported": "moco.commands.export",
    "Imported": "moco.commands.import_weights",
    "MocoError": "moco.errors",
    "Neighbours": "moco.commands.neighbours",
    "Packed": "moco.commands.pack",
    "Preprocessing": "moco.data.preprocess",
    "Pretrained": "moco.export.load",
    "Report": "moco.evaluation.report",
    "Run": "moco.commands.pretrain",
    "Scenes": "moco.commands.scenes",
    "ablate": "moco.commands.ablate",
    "embed": "moco.commands.embed",
    "evaluate": "moco.commands.evaluate",
    "export_weights": "moco.commands.export",
    "import_weights": "moco.commands.import_weights",
    "load": "moco.export.load",
    "neighbours": "moco.commands.neighbours",
    "pack": "moco.commands.pack",
    "pretrain": "moco.commands.pretrain",
    "scenes": "moco.commands.scenes",
    "transfer": "moco.commands.transfer",
}


def __getattr__(name: str) -> Any:
    if name == "contrast":
        return importlib.import_module("moco.contrast")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'moco' has no attribute {name!r}")
