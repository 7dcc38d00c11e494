"""The scores that need no labels, for a model and its baselines."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from moco.data.augment import RecipeViews
from moco.data.base import Source
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.evaluation.features import extract_features
from moco.evaluation.images import LabelledImages
from moco.evaluation.network import Model, Network
from moco.evaluation.progress import watch
from moco.evaluation.report import Row
from moco.evaluation.scores import alignment, effective_rank, feature_std, uniformity
from moco.evaluation.settings import Settings

MOST_IMAGES = 10_000
_BATCH = 128
HOW = {
    "feature_std": "0 collapsed, 1 even",
    "effective_rank": "RankMe, at most the width and the number of images",
    "alignment": "mean squared distance of two views of an image, 0 to 4, lower is closer",
    "uniformity": "0 collapsed, about -4 even",
}


def read_images(source: Source, settings: Settings, *, size: int) -> LabelledImages:
    """At most MOST_IMAGES images of a source, drawn from the seed; labels are not asked for."""
    order = np.sort(np.random.default_rng(settings.seed).permutation(len(source))[:MOST_IMAGES])
    nothing = np.zeros(len(source), dtype=np.int64)
    return LabelledImages.read(source, order, nothing, size=size, skipped=SkippedFiles())


def score(model: Model, images: LabelledImages, network: Network, settings: Settings, device: str) -> Iterator[Row]:
    """Rows of all scores of a network: on its features, and on its embeddings where it has a head."""
    values: dict[str, list[dict[str, float]]] = {}
    for seed in settings.all_seeds if network.drawn else settings.all_seeds[:1]:
        backbone = network.make(seed).to(device)
        batches = images.batches(network.preprocess)
        what = f"features, {network.label}"
        features = extract_features(backbone, watch(batches, images.steps, what=what, quiet=settings.quiet))
        views = _views(model, images, backbone, settings, device)
        values.setdefault("features", []).append(_scores(features, views))
        if network.head is not None:
            with torch.no_grad():
                embeddings, pairs = network.head(features), network.head(views.flatten(0, 1)).unflatten(0, (2, -1))
            values.setdefault("embeddings", []).append(_scores(embeddings, pairs))
    for inputs, found in values.items():
        for name, how in HOW.items():
            yield Row(network.label, name, inputs, tuple(one[name] for one in found), None, how)


def _scores(features_ND: Tensor, views_2ND: Tensor) -> dict[str, float]:
    return {
        "feature_std": feature_std(features_ND),
        "effective_rank": effective_rank(features_ND),
        "alignment": alignment(views_2ND[0], views_2ND[1]),
        "uniformity": uniformity(features_ND),
    }


def _views(model: Model, images: LabelledImages, backbone: nn.Module, settings: Settings, device: str) -> Tensor:
    """Features of two views of each image, (2, N, D); the images of a last batch that is not full are left out."""
    order = EpochOrder(np.arange(len(images)), batch_size=min(_BATCH, len(images)), seed=settings.seed)
    make = RecipeViews(model.views, images.size, order, device_type=torch.device(device).type)
    loader = ViewLoader(images.source, order, make, device=torch.device(device), skipped=SkippedFiles())
    steps = order.steps_per_epoch
    with contextlib.closing(loader.batches(0)) as batches:
        pairs = (torch.cat(views) for views, _ in itertools.islice(batches, steps))
        features = extract_features(backbone, watch(pairs, steps, what="views", quiet=settings.quiet))
    return features.view(steps, 2, order.batch_size, -1).transpose(0, 1).flatten(1, 2)
