"""Trained weights to start from: a run, a file of ours or of another project, a library's by name, a module."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moco.data.bands import RGB, count_of
from moco.data.preprocess import Preprocessing
from moco.encoder import build_backbone
from moco.encoder.backbone import GIVEN, module_of, torchvision_names
from moco.encoder.pretrained import torchvision_tensors, torchvision_weights
from moco.encoder.stem import inherited, input_channels
from moco.errors import ArchitectureError, ConfigError, RunError
from moco.export.convert import convert
from moco.export.foreign import OwnFileError, read_foreign
from moco.export.load import HasPath, Pretrained, fill, load
from moco.export.reading import understood
from moco.normalization import IMAGENET
from moco.sizes import Size, size_of

SIZE = 224  # side of images in pixels, where nothing says it
_FILES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")


def trained_backbone(
    weights: str | os.PathLike[str] | HasPath | nn.Module,
    *,
    architecture: str | None = None,
    image_size: Size | None = None,
    channels: int | None = None,
) -> Pretrained:
    """The trained backbone that a user means, with its preprocessing, on the CPU.

    Args:
        weights: a run, its folder or a file of it; a file or folder that `moco import` takes; torchvision/NAME or
            timm/NAME, whose trained weights are downloaded where they are not on the disk; package.module:factory, a
            function that returns a trained module; or such a module itself, which is not copied.
        architecture: of a file that does not tell its own, see `moco.import_weights`; package.module:factory builds
            the module that a file is for, which no file by itself may call.
        image_size, channels: of the images that a module takes; None means 224 px, and what its first layer takes.

    Raises:
        RunError: a file that is missing or cannot be read safely.
        ArchitectureError: weights of another architecture, or a name without trained weights.
        ConfigError: the library that has them is not installed, or they cannot be downloaded.
    """
    if isinstance(weights, Pretrained):
        return weights
    if isinstance(weights, nn.Module):
        return _of_module(weights, image_size, channels)
    if not isinstance(weights, str | os.PathLike):
        return load(weights)
    path = Path(weights).expanduser()
    if path.exists() or path.suffix in _FILES:
        return _of_file(path, architecture)
    name = os.fspath(weights)
    if ":" in name:
        return _of_module(module_of(name), image_size, channels, name)
    library, _, short = name.rpartition("/")
    if library in ("", "torchvision") and short in torchvision_names():
        return _of_torchvision(short)
    if library in ("", "timm") and short:
        return _of_timm(short)
    raise RunError(f"{name}: no such file or run, and no trained weights of that name (torchvision/NAME, timm/NAME)")


def _of_file(path: Path, architecture: str | None) -> Pretrained:
    try:
        with understood(path):
            foreign = read_foreign(path)
    except OwnFileError:
        if architecture is None or ":" not in architecture:
            return load(path)
        model = load(path, backbone=module_of(architecture))
        model.architecture = architecture
        return model
    return convert(foreign, path, architecture=architecture, stem=None, image_size=None, num_heads=None)[0]


def _of_module(module: nn.Module, image_size: Size | None, channels: int | None, name: str | None = None) -> Pretrained:
    size, own = image_size or SIZE, input_channels(module)
    try:
        built = build_backbone(module, image_size=size, channels=channels or own or RGB)
    except ArchitectureError as error:
        if channels in (None, own):
            raise
        raise ArchitectureError(f"{error}; its first convolution takes {own}: build it for {channels}") from error
    if name is not None:
        built = dataclasses.replace(built, architecture=name)
    return Pretrained(built, Preprocessing(size, *(IMAGENET if built.channels == RGB else _unknown(built.channels))))


def in_channels(model: Pretrained, channels: int | None) -> Pretrained:
    """The same weights for images of so many channels, which the first convolution inherits, see
    `moco.encoder.stem.inherited`; their normalisation is not known.

    Raises:
        ArchitectureError: a module or function of the user's, or a first convolution that is not found.
    """
    if channels is None or channels == model.channels:
        return model
    what = f"{model.architecture} of {count_of(model.channels)}"
    if model.architecture.startswith(GIVEN) or ":" in model.architecture:
        raise ArchitectureError(f"channels={channels} for {what}: build it for {channels}, or leave channels out")
    options: Any = {"stem": model.stem, "num_heads": model.num_heads}
    with torch.random.fork_rng(devices=[]):
        built = build_backbone(model.architecture, image_size=model.image_size, channels=channels, **options)
    tensors = model.backbone.state_dict()
    for name, value in built.module.state_dict().items():
        if value.ndim == 4 and (tensors[name].shape[1], value.shape[1]) == (model.channels, channels):
            tensors[name] = inherited(tensors[name], channels)
    fill(built.module, tensors, what=f"{what} for {count_of(channels)}")
    return Pretrained(built, Preprocessing(model.preprocess.size, *_unknown(channels))).eval()


def _unknown(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation where nobody has stated any."""
    return (0.5,) * channels, (0.25,) * channels


def _of_torchvision(name: str) -> Pretrained:
    chosen = torchvision_weights(name)
    state = _fetched(f"torchvision/{name}", lambda: torchvision_tensors(chosen, progress=True))
    preset = chosen.transforms()
    side = size_of(preset.crop_size)
    with torch.random.fork_rng(devices=[]):
        built = build_backbone(f"torchvision/{name}", image_size=side, stem="standard")
    expected = built.module.state_dict()
    built.module.load_state_dict({key: value for key, value in state.items() if key in expected})
    return Pretrained(built, Preprocessing(side, tuple(preset.mean), tuple(preset.std)))


def _of_timm(name: str) -> Pretrained:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"timm/{name} needs timm: pip install 'moco-contrast[timm]'") from error
    try:
        known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # no such tag of the model
        known = None
    if known is None or not known.has_weights:
        raise ArchitectureError(f"timm has no trained weights of the name {name}: see timm.list_pretrained()")
    with torch.random.fork_rng(devices=[]):
        module = _fetched(f"timm/{name}", lambda: timm.create_model(name, pretrained=True, num_classes=0))
        side, plain = size_of(known.input_size[1:]), f"timm/{name.partition('.')[0]}"
        built = build_backbone(plain, image_size=side, stem="standard")
    built.module.load_state_dict(module.state_dict())
    return Pretrained(built, Preprocessing(side, tuple(known.mean), tuple(known.std)))


def _fetched(name: str, fetch: Callable[[], Any]) -> Any:
    """From the disk, else from where the library keeps them."""
    try:
        return fetch()
    except Exception as error:  # of any of the libraries that download
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"trained weights {name} cannot be had ({reason}): fetch them where there is a network, or name a file"
        ) from error
