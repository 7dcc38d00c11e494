"""Hugging Face: a folder for transformers' ResNetModel, with its image processor.

transformers' own processors cut an odd surplus at the lower offset and, by default, resize by PyTorch: neither can be
set, and features differ in the second digit. Its wrapper of timm's transform (TimmWrapperImageProcessor) is equal to
ours bit for bit, and found by `AutoImageProcessor` in config.json; it needs timm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.export.backbone import write_tensors
from moco.export.proof import Reader
from moco.export.resnet_names import to_huggingface
from moco.export.subject import Subject
from moco.export.to_timm import preprocessing_of_timm


def refusal(subject: Subject) -> str | None:
    """Why not: transformers' ResNet has neither groups nor other widths nor small stems."""
    known = subject.resnet
    if known is None or known.groups > 1 or known.width_per_group != 64:
        return f"transformers' ResNetModel is resnet18, 34, 50, 101 or 152, not {subject.model.architecture}"
    return subject.stem_refusal()


def write(subject: Subject, path: Path) -> None:
    """Write config.json, which also holds the preprocessing, and model.safetensors."""
    from transformers import ResNetConfig

    known = subject.resnet
    assert known is not None
    config: Any = ResNetConfig(
        hidden_sizes=list(known.widths),
        depths=list(known.blocks),
        layer_type="bottleneck" if known.bottleneck else "basic",
        architectures=["ResNetModel"],
    )
    stated = {
        **config.to_dict(),
        "image_processor_type": "TimmWrapperImageProcessor",
        "pretrained_cfg": preprocessing_of_timm(subject.model.preprocess),
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")
    tensors = {to_huggingface(name): tensor for name, tensor in subject.tensors().items()}
    write_tensors(tensors, path / "model.safetensors", metadata={"format": "pt"})


def read(path: Path) -> Reader:
    """Read it with transformers alone: model and processor."""
    import transformers

    library: Any = transformers
    bars = library.utils.logging.is_progress_bar_enabled()
    library.utils.logging.disable_progress_bar()  # for single files they say nothing
    model = library.AutoModel.from_pretrained(path, local_files_only=True).eval()
    if bars:
        library.utils.logging.enable_progress_bar()
    processor = library.AutoImageProcessor.from_pretrained(path, local_files_only=True)

    def features(images: Tensor) -> Tensor:
        pooled: Tensor = model(pixel_values=images).pooler_output
        return pooled.flatten(1)

    return Reader(features, lambda image: processor(image, return_tensors="pt").pixel_values[0])
