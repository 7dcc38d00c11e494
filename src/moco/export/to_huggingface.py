"""Hugging Face: a folder for transformers' ResNetModel, with its image processor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.export.proof import Reader
from moco.export.resnet_names import to_huggingface
from moco.export.subject import Subject

BILINEAR = 2  # Pillow's number, which the processor's file holds


def refusal(subject: Subject) -> str | None:
    """Why not: transformers' ResNet has neither groups nor other widths nor small stems."""
    known = subject.resnet
    if known is None or known.groups > 1 or known.width_per_group != 64:
        return f"transformers' ResNetModel is resnet18, 34, 50, 101 or 152, not {subject.model.architecture}"
    return subject.stem_refusal()


def write(subject: Subject, path: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json."""
    from transformers import BitImageProcessor, ResNetConfig, ResNetModel

    known = subject.resnet
    assert known is not None
    config = ResNetConfig(
        hidden_sizes=list(known.widths),
        depths=list(known.blocks),
        layer_type="bottleneck" if known.bottleneck else "basic",
    )
    model = ResNetModel(config)
    model.load_state_dict({to_huggingface(name): tensor for name, tensor in subject.tensors().items()})
    with _no_bars():
        model.save_pretrained(path)
    preprocess = subject.model.preprocess
    side = preprocess.size
    BitImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=BILINEAR,
        image_mean=list(preprocess.mean),
        image_std=list(preprocess.std),
    ).save_pretrained(path)


def read(path: Path) -> Reader:
    """Read it with transformers alone: model and processor."""
    import transformers

    library: Any = transformers
    with _no_bars():
        model = library.AutoModel.from_pretrained(path, local_files_only=True).eval()
    processor = library.AutoImageProcessor.from_pretrained(path, local_files_only=True)

    def features(images: Tensor) -> Tensor:
        pooled: Tensor = model(pixel_values=images).pooler_output
        return pooled.flatten(1)

    return Reader(features, lambda image: processor(image, return_tensors="pt").pixel_values[0])


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Its progress bars for single files say nothing here."""
    import transformers

    logging: Any = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
