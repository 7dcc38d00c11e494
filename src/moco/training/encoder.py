"""The query encoder of a configuration."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from moco.config import Config
from moco.contrast.batchnorm import has_batchnorm
from moco.encoder import (
    Encoder,
    build_encoder,
    freeze_first_layers_,
    freeze_patch_projection_,
    measure_width,
    recomputable_blocks,
    zero_residuals_,
)
from moco.errors import ArchitectureError, ConfigError
from moco.sizes import Size, height_width, size_of, size_text, small_size


def build_checked_encoder(config: Config, module: nn.Module | None = None) -> Encoder:
    """The query encoder with its head, drawn from the seed, for a batch that its BatchNorm layers can take.

    `module`: the user's own backbone, instead of the one that the configuration names.

    Raises:
        ArchitectureError: the backbone cannot be built, does not give (N, D), or has weights that are not float32; or
            there are no blocks for activation_checkpointing.
        ConfigError: the batch is too small, or there is a BatchNorm cure where there is no BatchNorm.
    """
    if module is not None:
        _check_module(module)
    names = ("image_size", "embedding_dim", "head", "hidden_dim", "stem", "num_heads")
    options: Any = {name: getattr(config, name) for name in names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        named = config.backbone if module is None else module
        encoder = build_encoder(named, channels=config.channels or 3, **options)
    _check_float32(encoder.backbone, config.backbone)
    if config.zero_init_residual:
        zero_residuals_(encoder.backbone, config.backbone)
    if config.frozen_layers:
        freeze_first_layers_(encoder.backbone, config.frozen_layers, config.backbone)
    if config.freeze_patch_projection:
        freeze_patch_projection_(encoder.backbone, config.backbone)
    if config.activation_checkpointing:
        recomputable_blocks(encoder.backbone, config.backbone)
    for option, size in _further_sizes(config):
        _check_size(encoder, config, size, option)
    _check_batchnorm(encoder, config)
    return encoder


def _further_sizes(config: Config) -> Iterator[tuple[str, Size]]:
    """Sizes of what the backbone visits, beside image_size, with the option that asks for it."""
    for size, _ in config.sizes.stages:
        yield "progressive_resolution", size
    if config.small_views:
        yield "small_views", small_size(config.small_view_size, config.image_size)
    for size, _ in config.sizes.shares() if config.patches else ():
        height, width = height_width(size)
        yield "patches", size_of((height // 2, width // 2))


def strides_over_one_position(encoder: Encoder, config: Config) -> bool:
    """Whether a convolution with a stride meets a map of one position, in the run's smallest views."""
    met: list[nn.Module] = []

    def note(layer: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        if max(layer.stride) > 1 and max(layer.kernel_size) > 1 and max(inputs[0].shape[2:]) == 1:
            met.append(layer)

    smallest = min(
        (config.image_size, *(size for _, size in _further_sizes(config))), key=lambda s: max(height_width(s))
    )
    layers = [layer for layer in encoder.backbone.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        measure_width(encoder.backbone, config.backbone, image_size=smallest, channels=config.channels or 3)
    finally:
        for hook in hooks:
            hook.remove()
    return bool(met)


def _check_size(encoder: Encoder, config: Config, size: Size, option: str) -> None:
    """Whether the backbone takes views of another size than image_size."""
    try:
        measure_width(encoder.backbone, config.backbone, image_size=size, channels=config.channels or 3)
    except ArchitectureError as error:
        stated = f"{option} at {size_text(size)} px, image_size={size_text(config.image_size)}"
        raise ArchitectureError(f"{stated}: {error}; choose a ResNet or another size, or leave it out") from error


def _check_batchnorm(encoder: Encoder, config: Config) -> None:
    """Whether the cure has layers to cure, and these enough samples."""
    share, needed = config.samples_at_once, 2 * (config.split_groups or 1)
    if not has_batchnorm(encoder):
        if config.batchnorm not in ("auto", "none"):
            raise ConfigError(
                f"batchnorm={config.batchnorm!r} for {config.backbone}, which has no BatchNorm: choose 'auto' or 'none'"
            )
    elif config.batchnorm != "frozen" and share < needed:
        chunks = "" if config.chunk_size is None else f" in chunks of chunk_size={config.chunk_size}"
        raise ConfigError(
            f"batch_size={config.batch_size}{chunks} is {share} samples a device: {config.backbone} has BatchNorm "
            f"layers, which need at least {needed} here"
        )


def _check_module(module: Any) -> None:
    """Refuse a backbone of the user's that could not be copied, trained or stored, before anything is written."""
    if not isinstance(module, nn.Module):
        raise ArchitectureError(f"backbone={module!r}: expected a name or an instance of torch.nn.Module")
    kind = type(module).__name__
    for part in module.modules():
        if isinstance(part, DataParallel | DistributedDataParallel):
            wrapped = type(part).__name__
            raise ArchitectureError(f"backbone {kind} has a {wrapped}: hand over its .module; devices=N is for several")
    if hasattr(module, "_orig_mod"):
        raise ArchitectureError(f"backbone is a {kind}: hand over the plain module; the option compile compiles it")
    if isinstance(module, torch.jit.ScriptModule):
        raise ArchitectureError(f"backbone is a {kind}: hand over the plain module that it was made from")
    parameters = list(module.parameters())
    if any(parameter.is_meta for parameter in parameters):
        raise ArchitectureError(f"backbone {kind} has weights on the meta device: build it on the CPU")
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        raise ArchitectureError(f"backbone {kind} has no weight that learns: call requires_grad_(True)")
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ArchitectureError(f"backbone {kind} keeps a {type(value).__name__} as {name!r}: tensors are expected")
    try:
        copy.deepcopy(module)
    except Exception as error:  # whatever a user's class raises
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArchitectureError(f"backbone {kind} cannot be copied for f_k ({what}): make it deep-copyable") from error


def _check_float32(module: nn.Module, backbone: str) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ArchitectureError(
                f"backbone {backbone}: {name} is {parameter.dtype}, expected torch.float32; hand over module.float(), "
                "the precision option decides what is computed in"
            )
