"""Checkpoints as other projects write them, with random weights: built from torchvision's and timm's own models."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def resnet(name: str = "resnet18", *, classes: int = 1000, small: bool = False, seed: int = 0) -> nn.Module:
    """torchvision's model with statistics of its own; `small`: 3x3 stem of stride 1 without max-pooling."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = torchvision.models.get_model(name, weights=None, num_classes=classes)
        if small:
            model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
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
