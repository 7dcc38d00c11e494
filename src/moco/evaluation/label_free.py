"""Scores of features that need no labels: how spread out, how many dimensions, how close the views of one image are.

N: images   D: feature width
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.data.base import Source
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews
from moco.data.skipped import SkippedFiles
from moco.errors import DataError
from moco.evaluation.features import extract_features
from moco.evaluation.images import LabelledImages, watch
from moco.evaluation.network import Model, Network
from moco.evaluation.report import Row
from moco.evaluation.settings import Settings
from moco.sizes import Size

MOST_IMAGES = 10_000
_BATCH, _ROWS = 128, 1024  # images, and features, at a time
_SMALLEST = 1e-7  # of a share of the singular values; RankMe's epsilon
HOW = {
    "feature_std": "0 collapsed, 1 even",
    "effective_rank": "RankMe, at most the width and the number of images",
    "alignment": "mean squared distance of two views of an image, 0 to 4, lower is closer",
    "uniformity": "0 collapsed, about -4 even",
}


def read_images(source: Source, settings: Settings, *, size: Size, resize: bool = True) -> LabelledImages:
    """At most MOST_IMAGES images of a source, drawn from the seed; labels are not asked for."""
    order = np.sort(np.random.default_rng(settings.seed).permutation(len(source))[:MOST_IMAGES])
    nothing = np.zeros(len(source), dtype=np.int64)
    return LabelledImages.read(source, order, nothing, size=size, resize=resize, skipped=SkippedFiles())


def score(model: Model, images: LabelledImages, network: Network, settings: Settings, device: str) -> Iterator[Row]:
    """Rows of all scores of a network: on its features, and on its embeddings where it has a head."""
    values: dict[str, list[dict[str, float]]] = {}
    for seed in network.seeds:
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


def feature_std(features_ND: Tensor) -> float:
    """Mean standard deviation over the dimensions of unit-length features, times sqrt(D).

    0 where all images have one direction (collapse), 1 where they are spread evenly over the sphere (Chen and He,
    2011.10566, section 4.1, who leave out the factor).
    """
    unit_ND = _unit(features_ND)
    return unit_ND.std(dim=0, unbiased=False).mean().item() * math.sqrt(unit_ND.shape[1])


def effective_rank(features_ND: Tensor) -> float:
    """RankMe (Garrido et al., 2210.02885, eq. 1): exp of the entropy of the singular values' shares, 1 to min(N, D).

    Of the features as they are, neither centred nor of unit length. The paper uses 25,600 images; with N not far above
    D the figure is lower.
    """
    features_ND = _checked(features_ND)
    gram_DD = sum(block_BD.double().T @ block_BD.double() for block_BD in torch.split(features_ND, 8 * _ROWS))
    assert isinstance(gram_DD, Tensor)
    singular = torch.linalg.eigvalsh(gram_DD).clamp(min=0).sqrt()
    total = singular.sum()
    if total == 0:
        raise DataError("all features are zero: the network has collapsed, or its weights are broken")
    shares = singular / total + _SMALLEST
    return math.exp(-(shares * shares.log()).sum().item())


def alignment(first_ND: Tensor, second_ND: Tensor) -> float:
    """Mean squared distance between the unit-length features of two views of one image, 0 to 4; lower is closer.

    Wang and Isola, 2005.10242, with exponent 2. Features of one direction have it at 0: read it beside `uniformity`.
    """
    if first_ND.shape != second_ND.shape:
        raise DataError(f"features {tuple(first_ND.shape)} and {tuple(second_ND.shape)}: need two views of each image")
    return (_unit(first_ND) - _unit(second_ND)).square().sum(dim=1).mean().item()


def uniformity(features_ND: Tensor) -> float:
    """Logarithm of the mean of exp(-2 distance^2) over all pairs of different images, -8 to 0; lower is more even.

    Wang and Isola, 2005.10242, with t = 2, on unit-length features. 0 where all have one direction; close to -4 for an
    even spread in many dimensions.
    """
    unit_ND = _unit(features_ND)
    count, logs = len(unit_ND), []
    for start in range(0, count, _ROWS):
        similarity = unit_ND[start : start + _ROWS] @ unit_ND.T
        logits = 4 * (similarity - 1)  # -2 |x - y|^2 of unit vectors
        rows = torch.arange(len(logits))
        logits[rows, rows + start] = -math.inf
        logs.append(logits.logsumexp(dim=(0, 1)))
    return torch.stack(logs).logsumexp(dim=0).item() - math.log(count * (count - 1))


def _unit(features_ND: Tensor) -> Tensor:
    return F.normalize(_checked(features_ND).double(), dim=1)


def _checked(features_ND: Tensor) -> Tensor:
    if features_ND.ndim != 2 or len(features_ND) < 2 or not features_ND.shape[1]:
        raise DataError(f"features of shape {tuple(features_ND.shape)}: need (images, width), at least two images")
    if not features_ND.isfinite().all():
        raise DataError("features hold NaN or infinite values: the network has diverged, or its input has")
    return features_ND
