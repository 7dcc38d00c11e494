"""The MoCo v3 authors' checkpoint: {epoch, arch, state_dict}, both encoders with their heads, and the predictor.

Tensors are module.base_encoder.*, module.momentum_encoder.* and module.predictor.*, the head fc.* in a ResNet and
head.* in a ViT. Written from this description of their files alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco.encoder.vit import ViTName, build_vit
from moco.errors import RunError
from moco.export.proof import Reader
from moco.export.subject import Subject
from moco.export.to_timm import vit_of_timm
from moco.export.to_torchvision import classifier_input

BASE = "module.base_encoder."
_PARTS = {
    "encoder_q": "module.base_encoder.",
    "encoder_k": "module.momentum_encoder.",
    "predictor": "module.predictor.",
}


def is_v3(subject: Subject) -> bool:
    """Whether the checkpoint is of a MoCo v3 run."""
    return subject.checkpoint is not None and any(name.startswith("predictor.") for name in subject.checkpoint)


def refusal(subject: Subject) -> str | None:
    """Why not: a network that is neither a ResNet of torchvision's nor one of the authors' ViTs."""
    if subject.library == "v3":
        if ViTName.parse(subject.name).size == "tiny":
            return "the authors have no ViT-tiny, and a reader could not see its number of heads"
        return None
    if subject.resnet is None:
        return f"the authors' v3 layout is for ResNets and for v3/vit_*, not {subject.model.architecture}"
    return subject.stem_refusal()


def write(subject: Subject, path: Path) -> None:
    """Write the file; `torch.load(path, weights_only=True)` reads it."""
    assert subject.checkpoint is not None
    head = "head" if subject.library == "v3" else "fc"
    state = {_renamed(name, head): value.detach().contiguous() for name, value in subject.checkpoint.items()}
    about = subject.about()
    content: dict[str, Any] = {"epoch": subject.epoch, "arch": subject.name, "state_dict": state}
    torch.save({**content, "preprocessing": about["preprocessing"], "image_size": about["image_size"]}, path)


def _renamed(name: str, head: str) -> str:
    """encoder_q.backbone.conv1.weight -> module.base_encoder.conv1.weight, encoder_q.head.0.weight -> fc.0.weight."""
    part, _, rest = name.partition(".")
    if part != "predictor":
        room, _, tensor = rest.partition(".")
        rest = tensor if room == "backbone" else f"{head}.{tensor}"
    return _PARTS[part] + rest


def read(content: dict[str, Any]) -> Reader:
    """Read it as a linear probe does: the base encoder without its head, into torchvision's or timm's model."""
    state: dict[str, Tensor] = content["state_dict"]
    base = {name.removeprefix(BASE): value for name, value in state.items() if name.startswith(BASE)}
    kept = {name: value for name, value in base.items() if not name.startswith(("fc.", "head."))}
    if len(kept) == len(base):
        raise RunError("the checkpoint has no head: nothing written")
    arch, image_size = content["arch"], content["image_size"]
    if not arch.startswith("vit_"):
        return Reader(classifier_input(arch, kept, image_size=image_size))
    model: Any = _vit(arch, image_size)
    model.load_state_dict(kept)
    features: Callable[[Tensor], Tensor] = model.eval()
    return Reader(features)


def _vit(arch: str, image_size: int) -> torch.nn.Module:
    if ViTName.parse(arch).convolutional:  # timm has none
        return build_vit(arch, image_size=image_size, channels=3)
    import timm

    name, arguments = vit_of_timm(ViTName.parse(arch))
    model: torch.nn.Module = timm.create_model(name, num_classes=0, img_size=image_size, **arguments)
    return model
