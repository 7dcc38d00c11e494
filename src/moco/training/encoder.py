"""The query encoder that a configuration asks for, and how it lies in memory."""

from __future__ import annotations

import torch

from moco.config import Config
from moco.encoder import Encoder, build_encoder, freeze_patch_projection_, has_batchnorm, zero_residuals_
from moco.errors import ConfigError
from moco.training.small_maps import use_tap_products_


def build_checked_encoder(config: Config) -> Encoder:
    """The query encoder with its head, drawn from the seed, for a batch that its BatchNorm layers can take.

    Raises:
        ArchitectureError: the backbone cannot be built.
        ConfigError: the batch is too small, or a BatchNorm cure is asked for where there is no BatchNorm.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = build_encoder(
            config.backbone,
            image_size=config.image_size,
            embedding_dim=config.embedding_dim,
            head=config.head,
            hidden_dim=config.hidden_dim,
            stem=config.stem,
        )
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
    use_tap_products_(encoder)
    return encoder


def memory_format(layout: str) -> torch.memory_format:
    """PyTorch's constant for the configuration's word."""
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format
