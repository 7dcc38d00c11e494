"""A backbone by name: our own small ResNets, torchvision's, timm's, or a function of the user's.

N: images   C, H, W: channels, height, width   D: feature width
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moco.encoder.pixels import NAME as PIXELS
from moco.encoder.pixels import PixelEncoder
from moco.encoder.small_resnet import WIDTHS, SmallResNet
from moco.encoder.stem import (
    OTHERS,
    STANDARD,
    STRIDES,
    Stem,
    check_stem,
    fit_stem,
    replace_input_channels,
    small_stem,
)
from moco.encoder.vit import PREFIX as V3
from moco.encoder.vit import build_vit, vit_names
from moco.errors import ArchitectureError
from moco.sizes import Size, height_width, size_text

GIVEN = "module/"  # before the class of a module that a user has handed over


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and what must be known to build it again: `build_backbone` takes the last five back.

    `module`: (N, C, H, W) -> (N, D), with the tensor names of the library it comes from. `feature_dim`: D.
    `architecture`: full name, such as torchvision/resnet50. `stem`: its name in `moco.encoder.stem.Stem`.
    `image_size` (pixels, see `moco.sizes`) and `channels`: of its images. `num_heads`: attention heads, where
    they are not the architecture's own number; else None.
    """

    module: nn.Module
    feature_dim: int
    architecture: str
    stem: str
    image_size: Size
    channels: int
    num_heads: int | None = None


def build_backbone(
    name: str | nn.Module, *, image_size: Size, stem: Stem = "auto", channels: int = 3, num_heads: int | None = None
) -> Backbone:
    """The backbone called `name`, with random weights, without its classifier.

    Looked up in this order: resnet_tiny, resnet_small, resnet_medium (ours) and curl (CURL's, for pixels);
    torchvision's classifiers; timm's, where timm is installed. The prefixes torchvision/ and timm/ look in one place
    only. v3/ has MoCo v3's own ViTs (v3/vit_small, v3/vit_conv_small, v3/vit_tiny_patch8). package.module:factory
    imports a factory of the user's and calls it without arguments; its module is used as it comes. A module is used as
    it comes, too, under the name module/CLASS, by which nobody else can build it.

    `image_size`: side of the images in pixels, or (height, width). `stem`: "auto" gives ResNets a small stem where the
    shorter side has 64 pixels or less, "small" demands one, "standard" never changes anything; a stem's own name
    (3x3-stride1) is taken too.
    `num_heads`: attention heads of a timm ViT, where they are to be others than the architecture's own. Their number
    is not to be seen in the weights' shapes: MoCo v3's ViT-S has 12, timm's has 6.
    Raises ArchitectureError where the name is unknown (the nearest ones are suggested), the module cannot be built or
    takes no such images, it does not give (N, D), or the stem is not to be had.
    """
    check_stem(stem)
    if isinstance(name, nn.Module):
        return _given(name, image_size, stem, channels)
    if min(height_width(image_size)) < 1 or channels < 1:
        raise ArchitectureError(f"image_size={size_text(image_size)}, channels={channels}: need at least 1 of each")
    if num_heads is not None and not name.startswith("timm/"):
        raise ArchitectureError(f"num_heads={num_heads} for {name}: only a timm/ ViT takes another number of heads")
    if name in WIDTHS:
        built = _own(name, image_size, stem, channels)
    elif name == PIXELS:
        built = PixelEncoder(channels=channels, image_size=image_size), name, _own_stem(name, stem)
    elif ":" in name:
        built = _from_factory(name, stem)
    else:
        built = _from_library(name, image_size, stem, channels, num_heads)
    module, architecture, used_stem = built
    width = measure_width(module, name, image_size=image_size, channels=channels)
    return Backbone(module, width, architecture, used_stem, image_size, channels, num_heads)


def measure_width(module: nn.Module, name: str, *, image_size: Size, channels: int) -> int:
    """D of a module (N, C, H, W) -> (N, D), found by a forward of two black images in eval mode.

    Training flags, BatchNorm statistics and torch's random state stay as they are.
    Raises ArchitectureError where the module cannot take such images or does not give (N, D).
    """
    parameter = next(module.parameters(), torch.zeros(0))
    shape = (2, channels, *height_width(image_size))
    images = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    was_training = [(submodule, submodule.training) for submodule in module.modules()]
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            features = module.eval()(images)
    except Exception as error:
        raise ArchitectureError(f"{name} takes no {size_text(shape[1:])} image: {_line(error)}") from error
    finally:
        for submodule, flag in was_training:
            submodule.training = flag
    if not isinstance(features, Tensor):
        raise ArchitectureError(f"{name} returned a {type(features).__name__}: need a tensor of features (N, D)")
    if features.ndim != 2 or len(features) != 2:
        raise ArchitectureError(f"{name} made {tuple(features.shape)} of {shape}: need features (N, D); pool them")
    return features.shape[1]


def _given(module: nn.Module, image_size: Size, stem: str, channels: int) -> Backbone:
    name = f"{GIVEN}{type(module).__name__}"
    used = _own_stem(name, stem)
    width = measure_width(module, name, image_size=image_size, channels=channels)
    return Backbone(module, width, name, used, image_size, channels)


def _own_stem(name: str, stem: str) -> str:
    """The stem of what has one that cannot be replaced."""
    if stem not in ("auto", STANDARD):
        raise ArchitectureError(f"stem={stem!r} for {name}: it has its own first layers; use stem='auto'")
    return STANDARD


def _own(name: str, image_size: Size, stem: str, channels: int) -> tuple[nn.Module, str, str]:
    if stem in OTHERS:
        raise ArchitectureError(f"stem={stem!r} for {name}: need one of {', '.join(STRIDES)}")
    # Stride 2 at every size unless stated otherwise: at 32 pixels stride 1 costs about three times the work.
    used = stem if stem in STRIDES else small_stem(image_size) if stem == "small" else "3x3-stride2"
    return SmallResNet(width=WIDTHS[name], stem_stride=STRIDES[used], channels=channels), name, used


def module_of(factory: str) -> nn.Module:
    """What package.module:factory returns; raises ArchitectureError as `build_backbone` does."""
    return _from_factory(factory, "auto")[0]


def _from_factory(name: str, stem: str) -> tuple[nn.Module, str, str]:
    used = _own_stem(name, stem)
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's module may raise anything while it is imported
        hint = "need package.module:factory, installed or on PYTHONPATH"
        raise ArchitectureError(f"cannot import {name} ({_line(error)}): {hint}") from error
    module = _call(name, factory)
    if not isinstance(module, nn.Module):
        raise ArchitectureError(f"{name} returned a {type(module).__name__}: need an nn.Module that gives (N, D)")
    return module, name, used


def _from_library(
    name: str, image_size: Size, stem: str, channels: int, num_heads: int | None
) -> tuple[nn.Module, str, str]:
    library, _, short = name.rpartition("/")
    if name.startswith(V3):
        architecture, module = name, build_vit(name.removeprefix(V3), image_size=image_size, channels=channels)
    elif library in ("", "torchvision") and short in torchvision_names():
        architecture = f"torchvision/{short}"
        module = _torchvision_model(short, image_size)
        if channels != 3:
            replace_input_channels(module, name, channels)
    elif library in ("", "timm") and _is_timm_name(short):
        architecture = f"timm/{short}"
        module = _timm_model(short, image_size, channels, num_heads)
    else:
        raise ArchitectureError(_unknown(name, library, short))
    return module, architecture, fit_stem(module, name, stem=stem, image_size=image_size, channels=channels)


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers, in its own order."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def timm_names() -> list[str]:
    """Names of timm's models, in its own order; none where timm is not installed."""
    timm = _timm()
    return list(timm.list_models()) if timm else []


def _torchvision_model(name: str, image_size: Size) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        if isinstance(image_size, tuple):
            advice = f"use a square, timm/ViTs or {V3}vit_small"
            raise ArchitectureError(f"{name} at {size_text(image_size)} px: torchvision's ViTs are square; {advice}")
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        options["input_size"] = height_width(image_size)
    elif name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    model: nn.Module = _call(
        f"{name} at {size_text(image_size)} px", torchvision.models.get_model, name, weights=None, **options
    )
    # The classifier is the last linear layer everywhere but in SqueezeNet, where a convolution makes the 1000 classes.
    for path, layer in reversed(list(model.named_modules())):
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.out_channels == 1000):
            model.set_submodule(path, nn.Identity())
            return model
    raise ArchitectureError(f"torchvision/{name} has no linear classifier to take off: use another backbone")


def _timm_model(name: str, image_size: Size, channels: int, num_heads: int | None) -> nn.Module:
    import timm

    config = timm.get_pretrained_cfg(name)
    options = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    if num_heads is not None:
        options["num_heads"] = num_heads
    what = f"{name} at {size_text(image_size)} px" + (f" with {num_heads} heads" if num_heads is not None else "")
    model: nn.Module = _call(
        what, timm.create_model, name, pretrained=False, num_classes=0, in_chans=channels, **options
    )
    return model


def _is_timm_name(name: str) -> bool:
    timm = _timm()
    if timm is None or not timm.is_model(name):
        return False
    if "." in name:
        plain = name.split(".")[0]
        raise ArchitectureError(f"{name} names trained weights, which --init takes; for random ones use timm/{plain}")
    return True


def _timm() -> Any:
    """timm, or None where it is not installed: it is optional."""
    try:
        import timm
    except ImportError:
        return None
    return timm


def _call(what: str, make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return make(*args, **options)
    except Exception as error:
        raise ArchitectureError(f"{what} cannot be built: {_line(error)}") from error


def _unknown(name: str, library: str, short: str) -> str:
    if library not in ("", "torchvision", "timm"):
        return f"backbone {name!r}: need NAME, torchvision/NAME, timm/NAME, {V3}NAME or package.module:factory"
    names = [] if library == "timm" else torchvision_names()
    names += [] if library == "torchvision" else timm_names()
    names += [] if library else [*WIDTHS, PIXELS, *vit_names()]
    nearest = difflib.get_close_matches(short, dict.fromkeys(names), n=3, cutoff=0.5)
    advice = f"nearest: {', '.join(nearest)}" if nearest else "use for example resnet_small, resnet18 or resnet50"
    if library != "torchvision" and _timm() is None:
        advice += "; timm is not installed, which has more: pip install timm"
    return f"unknown backbone {name!r}; {advice}"


def _line(error: BaseException) -> str:
    """First line of an error's message, after its type."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
