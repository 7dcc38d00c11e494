"""The MoCo authors' checkpoints: {epoch, arch, state_dict} with both encoders, their heads, and what a version adds.

v1/v2: module.encoder_q.*, module.encoder_k.* with the head as fc.*, queue. v3: module.base_encoder.*,
module.momentum_encoder.* with the head as fc.* in a ResNet and head.* in a ViT, module.predictor.*. Their linear
probes and detection scripts, and those of others that read the files, take them from there. Written from this
description alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.contrast.stored_keys import ScaledKeys
from moco.encoder.backbone import torchvision_names
from moco.encoder.vit import ViTName, build_vit
from moco.errors import RunError
from moco.export.proof import Reader
from moco.export.subject import Subject
from moco.export.to_timm import vit_of_timm
from moco.export.to_torchvision import classifier_input, input_of, transform
from moco.sizes import Size

_V2 = {"encoder_q": "module.encoder_q.", "encoder_k": "module.encoder_k."}
_V3 = {
    "encoder_q": "module.base_encoder.",
    "encoder_k": "module.momentum_encoder.",
    "predictor": "module.predictor.",
}
_QUEUE = {"queue.keys_KC": "module.queue", "queue.pointer": "module.queue_ptr"}


def refusal(subject: Subject) -> str | None:
    """Why not: no checkpoint, no key encoder in it, or a network that the authors' readers cannot build."""
    if _is_v3(subject):
        return _refusal_v3(subject)
    if subject.library not in ("torchvision", "timm") or not _has_fc(subject):
        return f"the authors' layout is for torchvision's networks with an `fc`, not {subject.model.architecture}"
    if subject.checkpoint is None:
        return subject.stem_refusal() or "it needs the run's checkpoints/last.pt, which holds heads and key encoder"
    if not any(name.startswith("encoder_k.") for name in subject.checkpoint):
        return "it holds a key encoder and a queue, which this run's mechanism has not: export the backbone alone"
    return subject.stem_refusal()


def _refusal_v3(subject: Subject) -> str | None:
    if subject.library != "v3":
        layout = f"the authors' v3 layout is for ResNets and for v3/vit_*, not {subject.model.architecture}"
        return layout if subject.resnet is None else subject.stem_refusal()
    if ViTName.parse(subject.name).size == "tiny":
        return "the authors have no ViT-tiny, and a reader could not see its number of heads"
    return None


def _is_v3(subject: Subject) -> bool:
    return subject.checkpoint is not None and any(name.startswith("predictor.") for name in subject.checkpoint)


def _has_fc(subject: Subject) -> bool:
    if subject.name not in torchvision_names():
        return False
    return subject.resnet is not None or isinstance(getattr(subject.model.backbone, "fc", None), nn.Identity)


def write(subject: Subject, path: Path) -> None:
    """Write the file; `torch.load(path, weights_only=True)` reads it. The queue is (C, K) float32, its pointer (1,)."""
    assert subject.checkpoint is not None
    prefixes, head = _V3 if _is_v3(subject) else _V2, "head" if subject.library == "v3" else "fc"
    tensors = dict(subject.checkpoint)
    scales_K = tensors.pop("queue.scales_K", None)
    state = {_renamed(name, prefixes, head): value.detach() for name, value in tensors.items()}
    if "module.queue" in state:
        keys = state["module.queue"]
        stored = keys if scales_K is None else ScaledKeys(keys, scales_K)
        state["module.queue"] = stored.to(torch.float32).T
        state["module.queue_ptr"] = state["module.queue_ptr"].reshape(1)
    state = {name: value.contiguous() for name, value in state.items()}
    torch.save({"epoch": subject.epoch, "arch": subject.name, "state_dict": state, **input_of(subject)}, path)


def _renamed(name: str, prefixes: dict[str, str], head: str) -> str:
    """encoder_q.backbone.conv1.weight -> module.encoder_q.conv1.weight, encoder_q.head.0.bias -> ...fc.0.bias."""
    if name in _QUEUE:
        return _QUEUE[name]
    encoder, _, rest = name.partition(".")
    part, _, tensor = rest.partition(".")
    if part in ("backbone", "head"):
        rest = tensor if part == "backbone" else f"{head}.{tensor}"
    return prefixes.get(encoder, f"module.{encoder}.") + rest


def read(path: Path) -> Reader:
    """Read it as a linear probe does: f_q without its head, into torchvision's or timm's model."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = content["state_dict"]
    prefix = next(p["encoder_q"] for p in (_V3, _V2) if any(name.startswith(p["encoder_q"]) for name in state))
    query = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    kept = {name: value for name, value in query.items() if not name.startswith(("fc.", "head."))}
    if len(kept) == len(query):
        raise RunError("the checkpoint has no head: nothing written")
    arch, image_size, preprocess = content["arch"], content["image_size"], transform(content["preprocessing"])
    if prefix == _V2["encoder_q"] or not arch.startswith("vit_"):
        return Reader(classifier_input(arch, kept, image_size=image_size), preprocess)
    model = _vit(arch, image_size)
    model.load_state_dict(kept)
    return Reader(model.eval(), preprocess)


def _vit(arch: str, image_size: Size) -> nn.Module:
    if ViTName.parse(arch).convolutional:  # timm has none
        return build_vit(arch, image_size=image_size, channels=3)
    import timm

    name, arguments = vit_of_timm(ViTName.parse(arch))
    model: Any = timm.create_model(name, num_classes=0, img_size=image_size, **arguments)
    module: nn.Module = model
    return module
