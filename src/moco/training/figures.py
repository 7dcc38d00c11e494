"""The kNN figures of a run: their images, what it is compared with, and the curve while it trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.data.skipped import SkippedFiles
from moco.data.views import ViewRecipe
from moco.encoder import Encoder
from moco.errors import ArchitectureError, ConfigError
from moco.evaluation.monitor import Monitor, check_neighbors, prepare_monitor
from moco.evaluation.network import drawn_anew
from moco.training.images import RunImages
from moco.training.loop import Evaluate


def make_monitor(images: RunImages, config: Config, recipe: ViewRecipe, skipped: SkippedFiles) -> Monitor | None:
    """The monitor of a run; None where no labels are known or no figures are wanted."""
    if images.test is None or images.held_out is None:
        return None
    return prepare_monitor(
        images.source,
        images.pretraining,
        images.test,
        images.held_out,
        image_size=config.image_size,
        mean=recipe.mean,
        std=recipe.std,
        num_neighbors=config.num_neighbors,
        knn_temperature=config.knn_temperature,
        most_images=config.knn_images,
        seed=config.seed,
        bf16=config.precision == "bf16",
        skipped=skipped,
        resize=not recipe.fixed_crop,
    )


def check_monitor(images: RunImages, config: Config) -> None:
    """Refuse more neighbours than there are labelled images, and patience without any, before anything is written.

    Raises:
        ConfigError: there are; or there is no label.
    """
    if config.patience is not None and images.test is None:
        raise ConfigError(f"patience={config.patience} without labels: there is no kNN accuracy to get better")
    if images.test is not None and images.held_out is not None:
        sides = (images.source, images.pretraining, images.test, images.held_out)
        check_neighbors(*sides, num_neighbors=config.num_neighbors, most=config.knn_images)


def of_the_users(encoder: Encoder, module: nn.Module | None) -> bool:
    """Whether the backbone is a module or comes from a function of the user's, which may bring trained weights."""
    return module is not None or ":" in encoder.architecture


def random_beside(
    encoder: Encoder, seed: int, module: nn.Module | None, starting: Mapping[str, Tensor] | None
) -> nn.Module | None:
    """Random weights, for a run that may start from others; None where it starts from random ones or has none.

    Args:
        encoder: as it was built, before the starting weights are in it.
        seed: what a user's module is drawn anew from.
        module: the user's own backbone, where it was handed over.
        starting: tensors of the starting weights.
    """
    if not of_the_users(encoder, module):
        return None if starting is None else copy.deepcopy(encoder.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return drawn_anew(encoder.backbone)
        except ArchitectureError:  # layers that cannot be drawn anew: there is nothing to compare with
            return None


def evaluator(monitor: Monitor) -> Evaluate:
    """What the loop calls for a point of the curve."""

    def evaluate(encoder: Any) -> Iterator[tuple[str, float]]:
        return monitor.curve(encoder.backbone)

    return evaluate
