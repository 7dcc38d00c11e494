"""Backbones by name or from any nn.Module, with their feature width; projection heads."""

from moco.encoder.backbone import Backbone, build_backbone, measure_width
from moco.encoder.freeze import freeze_first_layers_
from moco.encoder.head import Encoder, build_encoder, linear_head, mlp_head, v3_predictor, v3_projector
from moco.encoder.recompute import recomputable_blocks, recomputing
from moco.encoder.residual import zero_residuals_
from moco.encoder.small_resnet import SmallResNet
from moco.encoder.vit import freeze_patch_projection_, patch_projection

__all__ = [
    "Backbone",
    "Encoder",
    "SmallResNet",
    "build_backbone",
    "build_encoder",
    "freeze_first_layers_",
    "freeze_patch_projection_",
    "linear_head",
    "measure_width",
    "mlp_head",
    "patch_projection",
    "recomputable_blocks",
    "recomputing",
    "v3_predictor",
    "v3_projector",
    "zero_residuals_",
]
