"""timm: a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`, preprocessing included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moco.data.preprocess import Preprocessing
from moco.encoder.backbone import timm_names
from moco.encoder.vit import ViTName
from moco.export.backbone import write_tensors
from moco.export.proof import Reader
from moco.export.subject import Subject
from moco.sizes import height_width


def refusal(subject: Subject) -> str | None:
    """Why not: timm has no such model or no such stem."""
    if subject.library == "v3":
        return "timm has no convolutional stem" if ViTName.parse(subject.name).convolutional else None
    if subject.library != "timm" and subject.resnet is None:
        return f"timm has no {subject.model.architecture} with these tensors"
    if subject.library != "timm" and subject.name not in timm_names():
        return f"timm has no {subject.name}"
    return subject.stem_refusal()


def write(subject: Subject, path: Path) -> None:
    """Write config.json and model.safetensors."""
    import timm

    path.mkdir()
    write_tensors(subject.tensors(), path / "model.safetensors", metadata={"format": "pt"})
    name: str = subject.name
    arguments: dict[str, Any] = {}
    if subject.library == "v3":
        name, arguments = vit_of_timm(ViTName.parse(name))
    known = timm.get_pretrained_cfg(name)
    fixed = bool(known is not None and known.fixed_input_size)
    if fixed:
        arguments["img_size"] = subject.model.image_size
    if subject.model.num_heads is not None:
        arguments["num_heads"] = subject.model.num_heads
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": subject.model.feature_dim,
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "fixed_input_size": fixed,
            # With these, a user who asks for classes gets a fresh classifier.
            "first_conv": known.first_conv if known is not None else None,
            "classifier": known.classifier if known is not None else None,
            **preprocessing_of_timm(subject.model.preprocess),
        },
    }
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def preprocessing_of_timm(preprocess: Preprocessing) -> dict[str, Any]:
    """The same preprocessing in timm's words."""
    return {
        "input_size": [3, *height_width(preprocess.size)],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def vit_of_timm(vit: ViTName) -> tuple[str, dict[str, Any]]:
    """timm's model with these tensors, and the arguments that make it MoCo v3's: heads and patch."""
    return f"vit_{vit.size}_patch16_224", {"num_heads": vit.num_heads, "patch_size": vit.patch_size}


def read(path: Path) -> Reader:
    """Read it with timm alone: model and preprocessing."""
    import timm

    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    data: Any = timm.data
    return Reader(model, data.create_transform(**data.resolve_model_data_config(model), is_training=False))
