"""What the package promises to others; a change here is a change for them."""

import re
from pathlib import Path

import moco
import moco.contrast


def test_public_names():
    assert moco.__all__ == [
        "Ablation",
        "Config",
        "Embedded",
        "Exported",
        "Imported",
        "MocoError",
        "Neighbours",
        "Packed",
        "Pretrained",
        "Run",
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
    ]
    assert moco.contrast.__all__ == [
        "MoCo",
        "Queue",
        "contrastive_logits",
        "ema_update_",
        "frozen_copy",
        "info_nce",
        "moco_step",
        "symmetric_moco_step",
    ]
    assert all(hasattr(moco, name) for name in moco.__all__)
    assert all(hasattr(moco.contrast, name) for name in moco.contrast.__all__)


def test_the_changelog_starts_with_this_version():
    changelog = Path(__file__).parents[1] / "CHANGELOG.md"
    assert re.search(r"^## (\S+)", changelog.read_text(), re.MULTILINE)[1] == moco.__version__
