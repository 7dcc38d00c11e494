"""The paper's network for semantic segmentation: a ResNet whose last stage is dilated, and a small head (FCN-16s).

Appendix of 1911.05722: the 3x3 convolutions of conv5 have dilation 2 and stride 1; two 3x3 convolutions of 256 channels
and dilation 6 follow, each with BatchNorm and ReLU, then a 1x1 convolution for the classes.

N: images   C, H, W: channels, height, width of images   D: width of the last stage   S: stride   K: classes
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from moco.errors import ArchitectureError
from moco.transfer.networks.normalization import tune_batchnorm_

LAST_STAGE = "layer4"
STAGE_DILATION, HEAD_DILATION, HEAD_WIDTH = 2, 6, 256
_PROBE = 64  # pixels a side of the image that shows whether the stages are the whole network
_REMEDY = "use a ResNet of torchvision (resnet18, resnet50), of timm, or resnet_tiny, resnet_small, resnet_medium"


class FCN(nn.Module):
    """Images (N, C, H, W) -> logits (N, K, H, W), upsampled bilinearly from one position every S pixels.

    S is 16 for a ResNet with the standard stem, and less for the small stems (8 for our small ResNets).

    Args:
        backbone: (N, C, H, W) -> (N, D), a ResNet with layer1 to layer4; a copy of it is used.
        num_classes: K, at least 2.

    Raises:
        ArchitectureError: a backbone that has no such stages, or does more than these stages and pooling.
        ValueError: fewer than 2 classes.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: need at least 2")
        stages, width = dilated_stages(backbone)
        self.backbone = tune_batchnorm_(stages)
        head = [*_dilated_layer(width, HEAD_WIDTH), *_dilated_layer(HEAD_WIDTH, HEAD_WIDTH)]
        self.head = tune_batchnorm_(nn.Sequential(*head, nn.Conv2d(HEAD_WIDTH, num_classes, kernel_size=1)))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.backbone(images))
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def dilated_stages(backbone: nn.Module) -> tuple[nn.Sequential, int]:
    """A copy of the backbone from its stem to its last stage, that stage dilated by 2 with stride 1; and D.

    Weights and tensor names are the backbone's.

    Raises:
        ArchitectureError: as `FCN` has it.
    """
    kind = type(backbone).__name__
    children = list(backbone.named_children())
    names = [name for name, _ in children]
    if not all(f"layer{number}" in names for number in (1, 2, 3, 4)):
        raise ArchitectureError(f"{kind} has no stages layer1 to layer4 that an FCN could dilate: {_REMEDY}")
    kept = copy.deepcopy(OrderedDict(children[: names.index(LAST_STAGE) + 1]))
    stages = nn.Sequential(kept)
    width = _check_stages(backbone, stages, kind)
    for layer in kept[LAST_STAGE].modules():
        if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
            raise ArchitectureError(f"{kind} pools inside its last stage, which cannot be dilated: {_REMEDY}")
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
            if layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (STAGE_DILATION, STAGE_DILATION)
    return stages, width


@torch.no_grad()
def _check_stages(backbone: nn.Module, stages: nn.Sequential, kind: str) -> int:
    """D; refuses a backbone whose features are not the mean of its last stage, which the FCN would change silently."""
    parameter = next(backbone.parameters())
    channels = next(layer.in_channels for layer in backbone.modules() if isinstance(layer, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, channels, _PROBE, _PROBE, generator=generator).to(parameter)
    plain = copy.deepcopy(backbone).eval()
    features_ND: Tensor = copy.deepcopy(stages).eval()(images).mean(dim=(2, 3))
    expected_ND = plain(images)
    if features_ND.shape != expected_ND.shape or not torch.allclose(features_ND, expected_ND, rtol=1e-3, atol=1e-4):
        raise ArchitectureError(f"{kind} does more than conv1 to layer4 and pooling: {_REMEDY}")
    return features_ND.shape[1]


def _dilated_layer(in_width: int, out_width: int) -> list[nn.Module]:
    convolution = nn.Conv2d(
        in_width, out_width, kernel_size=3, padding=HEAD_DILATION, dilation=HEAD_DILATION, bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(out_width), nn.ReLU(inplace=True)]
