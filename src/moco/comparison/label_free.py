"""The scores that need no labels, for the run and its baselines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from moco.comparison.bench import Bench
from moco.comparison.contenders import Contender
from moco.comparison.progress import watch
from moco.comparison.report import Row
from moco.comparison.subject import Subject
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.readable import ReadableImages
from moco.data.skipped import SkippedFiles
from moco.evaluation.features import extract_features
from moco.evaluation.scores import alignment, effective_rank, feature_std, uniformity

MOST_IMAGES = 10_000
_BATCH = 128
HOW = {
    "feature_std": "0 collapsed, 1 even",
    "effective_rank": "RankMe, at most the width and the number of images",
    "alignment": "mean squared distance of two views of an image, 0 to 4, lower is closer",
    "uniformity": "0 collapsed, about -4 even",
}
ORDER = tuple(HOW)


def score(bench: Bench, subject: Subject, images: ReadableImages, contender: Contender) -> Iterator[Row]:
    """Rows of all scores of a contender: on its features, and on its embeddings where it has a head."""
    values: dict[str, list[dict[str, float]]] = {}
    seeds = list(bench.settings.all_seeds)
    for seed in seeds if contender.drawn else seeds[:1]:
        backbone = contender.make(seed).to(bench.device)
        features = bench.features(backbone, images, contender.preprocess, what=f"features, {contender.network}")
        views = _views(bench, subject, images, backbone, f"views, {contender.network}")
        values.setdefault("features", []).append(_scores(features, views))
        if contender.head is not None:
            with torch.no_grad():
                embeddings, pairs = contender.head(features), contender.head(views)
            values.setdefault("embeddings", []).append(_scores(embeddings, pairs))
    for inputs, found in values.items():
        for name in ORDER:
            yield Row(contender.network, name, inputs, tuple(one[name] for one in found), None, HOW[name])


def _scores(features_ND: Tensor, views_2ND: Tensor) -> dict[str, float]:
    return {
        "feature_std": feature_std(features_ND),
        "effective_rank": effective_rank(features_ND),
        "alignment": alignment(views_2ND[0], views_2ND[1]),
        "uniformity": uniformity(features_ND),
    }


def _views(bench: Bench, subject: Subject, images: ReadableImages, backbone: nn.Module, what: str) -> Tensor:
    """Features of two views of each image, (2, N, D); the images of a last batch that is not full are left out."""
    batch_size = min(_BATCH, len(images))
    order = EpochOrder(images.indices, batch_size=batch_size, seed=bench.settings.seed)
    loader = ViewLoader(
        images.source,
        order,
        subject.views,
        image_size=subject.preprocess.size,
        device=bench.device,
        skipped=SkippedFiles(),
    )

    def pairs() -> Iterator[Tensor]:
        batches = loader.batches(0)
        try:
            for _ in watch(range(order.steps_per_epoch), order.steps_per_epoch, what, show=not bench.settings.quiet):
                yield torch.cat(next(batches))
        finally:
            batches.close()  # type: ignore[attr-defined]

    features = extract_features(backbone, pairs())
    return features.view(order.steps_per_epoch, 2, batch_size, -1).transpose(0, 1).flatten(1, 2)
