"""What the package promises to others; a change here is a change for them."""

import dataclasses
import re
from pathlib import Path

import moco
import moco.contrast


def test_public_names():
    assert moco.__all__ == [
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
    assert all(hasattr(moco, name) for name in moco.__all__)


def test_what_a_run_gives():
    public = {name for name in dir(moco.Run) if not name.startswith("_")}
    assert public == {"allow_factory", "backbone", "config", "finished", "model", "module", "summary", "weights"}
    assert [field.name for field in dataclasses.fields(moco.Run)] == ["path", "module", "allow_factory"]


def test_moments_of_a_callback():
    moments = {name for name in vars(moco.Callback) if name.startswith("on_")}
    assert moments == {"on_train_start", "on_step_end", "on_log", "on_checkpoint", "on_train_end"}


def test_public_names_of_the_algorithm():
    assert moco.contrast.__all__ == [
        "Bank",
        "Bilinear",
        "ContrastiveModel",
        "EndToEnd",
        "InChunks",
        "LearnedTemperature",
        "LossAndKeys",
        "MemoryBank",
        "MoCo",
        "MoCoV3",
        "MoCoVariant",
        "Queue",
        "TwoTowers",
        "contrast_loss",
        "contrast_step",
        "contrastive_logits",
        "ema_update_",
        "end_to_end_loss",
        "end_to_end_step",
        "frozen_copy",
        "half_cosine",
        "in_batch_info_nce",
        "info_nce",
        "memory_bank_loss",
        "memory_bank_step",
        "moco_loss",
        "moco_step",
        "moco_v3_loss",
        "moco_v3_step",
        "scored_info_nce",
        "symmetric_moco_loss",
        "symmetric_moco_step",
        "two_towers_loss",
        "two_towers_step",
        "variant_loss",
        "variant_step",
    ]
    assert all(hasattr(moco.contrast, name) for name in moco.contrast.__all__)


def test_the_changelog_starts_with_this_version():
    changelog = Path(__file__).parents[1] / "CHANGELOG.md"
    assert re.search(r"^## (\S+)", changelog.read_text(), re.MULTILINE)[1] == moco.__version__
