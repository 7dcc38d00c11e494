"""The first layers of a ResNet, fitted to small images.

An ImageNet stem leaves a 32-pixel image eight positions a side before the first block. The MoCo authors' CIFAR demo
uses a 3x3 convolution of stride 1 without max-pooling; at 33 to 64 pixels stride 2 keeps its grid.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from moco.errors import ArchitectureError
from moco.sizes import Size, height_width

Stem = Literal["auto", "small", "standard", "3x3-stride1", "3x3-stride2", "3x3-stride1-padding2", "3x3-stride1-linear"]
STANDARD = "standard"
STRIDES = {"3x3-stride1": 1, "3x3-stride2": 2}
# solo-learn's for CIFAR, and lightly's, whose BatchNorm no ReLU follows; both of stride 1. For imported weights.
PADDED, LINEAR = OTHERS = ("3x3-stride1-padding2", "3x3-stride1-linear")


def check_stem(stem: str) -> None:
    """Raise ArchitectureError unless `stem` is an option: auto, small, standard, or the name of one small stem."""
    if stem not in get_args(Stem):
        raise ArchitectureError(f"stem={stem!r}: need one of {', '.join(get_args(Stem))}")


def small_stem(image_size: Size) -> str:
    """Name of the small stem for a size in pixels: stride 1 where the shorter side is up to 32, stride 2 above."""
    return "3x3-stride1" if min(height_width(image_size)) <= 32 else "3x3-stride2"


def fit_stem(module: nn.Module, name: str, *, stem: str, image_size: Size, channels: int) -> str:
    """Replace the stem of `module` in place where `stem` asks for it, and return the name of the stem it then has.

    "auto" gives a ResNet the small stem where the shorter side has 64 pixels or less, and leaves every other
    architecture as it is.
    Raises ArchitectureError where a small stem is named and the architecture has no ResNet stem.
    """
    if stem == STANDARD or (stem == "auto" and (min(height_width(image_size)) > 64 or not has_resnet_stem(module))):
        return STANDARD
    if not has_resnet_stem(module):
        raise ArchitectureError(f"stem={stem!r} for {name}: only ResNets have a small stem; use stem='auto'")
    chosen = small_stem(image_size) if stem in ("auto", "small") else stem
    _replace_resnet_stem(module, chosen, channels)
    return chosen


def has_resnet_stem(module: nn.Module) -> bool:
    """Whether `module` begins as torchvision's and timm's ResNets do: conv1, bn1, maxpool, layer1."""
    return all(isinstance(getattr(module, part, None), nn.Module) for part in ("conv1", "bn1", "maxpool", "layer1"))


def stem_convolution(channels: int, width: int, *, stride: int) -> nn.Conv2d:
    """3x3 convolution, padding 1, no bias, initialised as torchvision's ResNet is (He et al., 1502.01852, fan out)."""
    convolution = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def replace_input_channels(module: nn.Module, name: str, channels: int) -> None:
    """Let the first convolution take `channels` instead of 3, with fresh weights; the tensor names stay."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1:
            size: Any = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
            fresh = nn.Conv2d(channels, layer.out_channels, bias=layer.bias is not None, **size)
            nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
            module.set_submodule(path, fresh)
            return
    raise ArchitectureError(f"channels={channels} for {name}: its first convolution is not known; use 3 channels")


def input_channels(module: nn.Module) -> int | None:
    """Channels of the images that a module takes: those of its first convolution; None where it has none."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.modules.conv._ConvNd))
    first = next(layers, None)
    return None if first is None else first.in_channels


def inherited(weight_OCHW: Tensor, channels: int) -> Tensor:
    """Weights of a first convolution for images of other channels: their sum for one channel, else the channels in
    turn, scaled so that as much comes together as before.
    """
    before = weight_OCHW.shape[1]
    if channels == 1:
        return weight_OCHW.sum(dim=1, keepdim=True)
    return weight_OCHW[:, torch.arange(channels) % before] * (before / channels)


def _replace_resnet_stem(module: nn.Module, stem: str, channels: int) -> None:
    # A deep stem (timm's resnet50d) has several convolutions: the last one has the width that bn1 expects.
    old = [layer for layer in module.get_submodule("conv1").modules() if isinstance(layer, nn.Conv2d)][-1]
    module.conv1 = stem_convolution(channels, old.out_channels, stride=STRIDES.get(stem, 1))
    module.maxpool = nn.Identity()
    if stem == PADDED:
        module.conv1.padding = (2, 2)
    if stem == LINEAR:
        setattr(module, "relu" if hasattr(module, "relu") else "act1", nn.Identity())
