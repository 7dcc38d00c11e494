"""The query encoder of a configuration."""

from __future__ import annotations

import torch
from torch import nn

from moco.config import Config
from moco.contrast.batchnorm import has_batchnorm
from moco.encoder import Encoder, build_encoder, freeze_patch_projection_, zero_residuals_
from moco.errors import ArchitectureError, ConfigError


def build_checked_encoder(config: Config, module: nn.Module | None = None) -> Encoder:
    """The query encoder with its head, drawn from the seed, for a batch that its BatchNorm layers can take.

    `module`: the user's own backbone, instead of the one that the configuration names.

    Raises:
        ArchitectureError: the backbone cannot be built, does not give (N, D), or has weights that are not float32.
        ConfigError: the batch is too small, or there is a BatchNorm cure where there is no BatchNorm.
    """
    if module is not None and not isinstance(module, nn.Module):
        raise ArchitectureError(f"backbone={module!r}: expected a name or an instance of torch.nn.Module")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = build_encoder(
            config.backbone if module is None else module,
            image_size=config.image_size,
            embedding_dim=config.embedding_dim,
            head=config.head,
            hidden_dim=config.hidden_dim,
            stem=config.stem,
        )
    _check_float32(encoder.backbone, config.backbone)
    if config.zero_init_residual:
        zero_residuals_(encoder.backbone, config.backbone)
    if config.freeze_patch_projection:
        freeze_patch_projection_(encoder.backbone, config.backbone)
    share = config.batch_size_per_rank
    if not has_batchnorm(encoder):
        if config.batchnorm not in ("auto", "none"):
            raise ConfigError(
                f"batchnorm={config.batchnorm!r} for {config.backbone}, which has no BatchNorm: choose 'auto' or 'none'"
            )
    elif share < 2 * (config.split_groups or 1):
        raise ConfigError(
            f"batch_size={config.batch_size} is {share} samples a device: {config.backbone} has BatchNorm layers, "
            f"which need at least {2 * (config.split_groups or 1)} here"
        )
    return encoder


def _check_float32(module: nn.Module, backbone: str) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ArchitectureError(
                f"backbone {backbone}: {name} is {parameter.dtype}, expected torch.float32; hand over module.float(), "
                "the precision option decides what is computed in"
            )
