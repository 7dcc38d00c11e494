"""The MoCo authors' v1/v2 checkpoint: {epoch, arch, state_dict} with module.encoder_q.*, module.encoder_k.*, queue.

Their tools (main_lincls.py, detection/convert-pretrain.py) and those of others that read it take it from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.encoder.backbone import torchvision_names
from moco.errors import RunError
from moco.export.proof import Reader
from moco.export.subject import Subject
from moco.export.to_torchvision import classifier_input

_PREFIX = "module.encoder_q."


def refusal(subject: Subject) -> str | None:
    """Why not: no checkpoint, or a network whose classifier is not torchvision's `fc`."""
    if subject.library not in ("torchvision", "timm") or not _has_fc(subject):
        return f"the authors' layout is for torchvision's networks with an `fc`, not {subject.model.architecture}"
    if subject.checkpoint is None:
        return subject.stem_refusal() or "it needs the run's checkpoints/last.pt, which holds heads and key encoder"
    if not any(name.startswith("encoder_k.") for name in subject.checkpoint):
        return "it holds a key encoder and a queue, which this run's mechanism has not: export the backbone alone"
    return subject.stem_refusal()


def _has_fc(subject: Subject) -> bool:
    if subject.name not in torchvision_names():
        return False
    return subject.resnet is not None or isinstance(getattr(subject.model.backbone, "fc", None), nn.Identity)


def write(subject: Subject, path: Path) -> None:
    """Write the file; `torch.load(path, weights_only=True)` reads it. The queue is (C, K), its pointer (1,)."""
    assert subject.checkpoint is not None
    state = {_renamed(name): value.detach().contiguous() for name, value in subject.checkpoint.items()}
    if "module.queue" in state:
        state["module.queue"] = state["module.queue"].T.contiguous()
        state["module.queue_ptr"] = state["module.queue_ptr"].reshape(1)
    about = subject.about()
    content: dict[str, Any] = {"epoch": subject.epoch, "arch": subject.name, "state_dict": state}
    torch.save({**content, "preprocessing": about["preprocessing"], "image_size": about["image_size"]}, path)


def _renamed(name: str) -> str:
    """encoder_q.backbone.conv1.weight -> module.encoder_q.conv1.weight, encoder_q.head.0.bias -> ...fc.0.bias."""
    renamed = {"queue.keys_KC": "queue", "queue.pointer": "queue_ptr"}.get(name, name)
    encoder, _, rest = renamed.partition(".")
    part, _, tensor = rest.partition(".")
    if part == "backbone":
        renamed = f"{encoder}.{tensor}"
    elif part == "head":
        renamed = f"{encoder}.fc.{tensor}"
    return f"module.{renamed}"


def read(path: Path) -> Reader:
    """Read it as the authors' linear probe does: f_q without its `fc`, into torchvision's model."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = content["state_dict"]
    query = {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
    kept = {name: value for name, value in query.items() if not name.startswith("fc.")}
    if len(kept) == len(query):
        raise RunError("the checkpoint has no head: nothing written")
    return Reader(classifier_input(content["arch"], kept, image_size=content["image_size"]))
