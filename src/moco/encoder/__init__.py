"""Backbones by name or from any nn.Module, with their feature width; projection heads."""

from moco.encoder.backbone import Backbone, build_backbone, has_batchnorm, measure_width
from moco.encoder.head import Encoder, build_encoder, linear_head, mlp_head
from moco.encoder.small_resnet import SmallResNet

__all__ = [
    "Backbone",
    "Encoder",
    "SmallResNet",
    "build_backbone",
    "build_encoder",
    "has_batchnorm",
    "linear_head",
    "measure_width",
    "mlp_head",
]
