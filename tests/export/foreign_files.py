"""Checkpoints as other projects write them, with random weights: built from torchvision's and timm's own models.

For projects that do not install beside us (solo-learn, mmselfsup, VISSL, the authors' repositories) the modules' names
and structure are those that they publish; files that a project makes itself are in test_import_peers.py.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def resnet(
    name: str = "resnet18", *, classes: int = 1000, small: bool = False, padding: int = 1, seed: int = 0
) -> nn.Module:
    """torchvision's model with statistics of its own; `small`: 3x3 stem of stride 1 without max-pooling."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = torchvision.models.get_model(name, weights=None, num_classes=classes)
        if small:
            model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
            model.maxpool = nn.Identity()
    return lively(model)


def lively(model: nn.Module) -> nn.Module:
    """The module in eval mode, with statistics and affine weights of its own, so that none can be mistaken."""
    with torch.no_grad():
        set_statistics(model)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.6, 1.4)
                layer.bias.uniform_(-0.2, 0.2)
    return model.eval()


def set_statistics(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.7, 1.5)


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What a torchvision ResNet gives its classifier."""
    head, model.fc = model.fc, nn.Identity()
    with torch.inference_mode():
        out = model(images)
    model.fc = head
    return out


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def v2(model: nn.Module, *, arch: str = "resnet18", dim: int = 128, keys: int = 16, module: bool = True) -> dict:
    """The authors' v1/v2 file (v2 head), with both encoders and the queue."""
    width = model.fc.in_features
    model.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {**prefixed(own, "encoder_q."), **prefixed({k: v * 0.5 for k, v in own.items()}, "encoder_k.")}
    state |= {"queue": torch.randn(dim, keys), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": arch, "state_dict": prefixed(state, "module.") if module else state}


def v3_head(sizes: list[int], *, last_bn: bool = True) -> nn.Sequential:
    """Linear without bias, BatchNorm, ReLU, ...; the last BatchNorm has buffers only."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(before, after, bias=False))
        if number < len(sizes) - 2:
            layers += [nn.BatchNorm1d(after), nn.ReLU()]
        elif last_bn:
            layers.append(nn.BatchNorm1d(after, affine=False))
    return nn.Sequential(*layers)


def v3(model: nn.Module, *, arch: str, hidden: int = 4096, module: bool = True) -> dict:
    """The authors' v3 file: base and momentum encoder with heads, predictor."""
    if isinstance(model, torchvision.models.ResNet):
        model.fc = v3_head([model.fc.in_features, hidden, 256])
        predictor = v3_head([256, hidden, 256], last_bn=False)
    else:
        model.head = v3_head([model.num_features, hidden, hidden, 256])
        predictor = v3_head([256, hidden, 256])
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {
        **prefixed(own, "base_encoder."),
        **prefixed({name: tensor * 0.5 for name, tensor in own.items()}, "momentum_encoder."),
        **prefixed(predictor.state_dict(), "predictor."),
    }
    return {"epoch": 300, "arch": arch, "state_dict": prefixed(state, "module.") if module else state}


def lightly(model: nn.Module) -> dict:
    """A LightningModule's checkpoint: the backbone is the sequence of torchvision's children without the classifier."""
    backbone = nn.Sequential(*list(model.children())[:-1])
    parts = {"backbone": backbone, "projection_head": nn.Sequential(nn.Linear(512, 512)), "backbone_momentum": backbone}
    return lightning(nn.ModuleDict(parts).state_dict())


def simsiam(model: nn.Module) -> dict:
    """The SimSiam authors' file: the head is the encoder's `fc`, the predictor beside it."""
    width = model.fc.in_features
    model.fc = nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 16)
    )
    parts = nn.ModuleDict({"encoder": model, "predictor": nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16))})
    return {"epoch": 100, "arch": "resnet18", "state_dict": prefixed(parts.state_dict(), "module."), "optimizer": {}}


def dino(teacher: nn.Module, student: nn.Module, *, wrapped: bool) -> dict:
    """The DINO authors' checkpoint; their teacher is wrapped for data parallelism where it has BatchNorm."""

    def network(backbone: nn.Module, prefix: str) -> Tensors:
        parts = nn.ModuleDict({"backbone": backbone, "head": nn.Sequential(nn.Linear(4, 4), nn.GELU())})
        return prefixed(parts.state_dict(), prefix)

    args = argparse.Namespace(arch="resnet50", patch_size=16)
    own = {"student": network(student, "module."), "teacher": network(teacher, "module." if wrapped else "")}
    return {**own, "optimizer": {}, "epoch": 3, "args": args, "dino_loss": {"center": torch.zeros(1, 8)}}


def byol_pytorch(model: nn.Module) -> Tensors:
    """byol-pytorch's learner: the network that it was given, and both encoders around it."""
    online = nn.ModuleDict({"net": model, "projector": nn.Sequential(nn.Linear(512, 8))})
    parts = {"net": model, "online_encoder": online, "online_predictor": nn.Linear(8, 8), "target_encoder": online}
    return nn.ModuleDict(parts).state_dict()


def mmselfsup(model: nn.Module, *, version: int, style: str = "pytorch") -> dict:
    """mmselfsup's file of BYOL: version 0 holds the backbone twice, version 1 beside the average that is its target."""
    model.fc = nn.Identity()
    neck = nn.Sequential(nn.Linear(512, 8))
    both = nn.Sequential(model, neck)
    other = (
        {"online_net": both, "target_net": both} if version == 0 else {"target_net": nn.ModuleDict({"module": both})}
    )
    parts = nn.ModuleDict({"backbone": model, "neck": neck, "head": nn.Linear(8, 8), **other})
    meta = {"epoch": 3, "cfg" if version else "config": f"model = dict(backbone=dict(type='ResNet', style='{style}'))"}
    return {"meta": meta, "state_dict": parts.state_dict()}


def solo_learn(model: nn.Module) -> dict:
    """A LightningModule's checkpoint with torchvision's names, online classifier, projector and queue."""
    model.fc = nn.Identity()
    parts = {"backbone": model, "momentum_backbone": model, "classifier": nn.Linear(512, 10)}
    parts["projector"] = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 256))
    return lightning({**nn.ModuleDict(parts).state_dict(), "queue": torch.randn(2, 256, 64)})


def lightning(state: Tensors) -> dict:
    return {"epoch": 3, "pytorch-lightning_version": "2.0.0", "state_dict": dict(state), "hyper_parameters": {"lr": 1}}


def vissl(model: nn.Module) -> dict:
    """VISSL's file: the trunk's blocks under classy_state_dict."""
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}
    trunk = prefixed(own, "_feature_blocks.")
    base = {"model": {"trunk": trunk, "heads": {"0.clf.0.weight": torch.randn(3, 3)}}, "meta": {}}
    return {"phase_idx": 1, "classy_state_dict": {"base_model": base}}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path
