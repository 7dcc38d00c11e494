"""Trained-looking backbones and the folders of runs that hold them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from moco.data.preprocess import Preprocessing
from moco.encoder import build_backbone
from moco.export.backbone import write_backbone
from moco.export.load import Pretrained
from moco.normalization import IMAGENET
from moco.sizes import height_width


def trained(name="resnet_tiny", *, image_size=16, stem="auto", seed=3, **options) -> Pretrained:
    """A network that is no longer at its start: statistics and affine weights are all of their own."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        built = build_backbone(name, image_size=image_size, stem=stem, **options)
        for parameter in built.module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.rand_like(parameter))
        layers = [layer for layer in built.module.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in layers:
            layer.momentum = 0.9
        if layers:
            built.module.train()(torch.randn(8, 3, *height_width(image_size)))
        for layer in layers:
            layer.momentum = 0.1
    return Pretrained(built, Preprocessing(image_size, *IMAGENET)).eval()


def written(folder: Path, model: Pretrained) -> Path:
    """A run folder with the weights alone."""
    folder.mkdir(exist_ok=True)
    write_backbone(model.backbone, folder / "backbone.safetensors", metadata=model.metadata())
    return folder
