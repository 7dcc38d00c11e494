"""What learning added: kNN of the backbone while it trains, beside random initialisation and raw pixels.

Labels are used for nothing else. Features are computed in the training's precision.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from moco.config import Config
from moco.data.fixed import fixed_images, normalized_batches
from moco.data.skipped import SkippedFiles
from moco.data.source import Source
from moco.data.views import ViewRecipe
from moco.errors import ConfigError
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_accuracy, pixel_features
from moco.evaluation.monitor import KnnMonitor

MEMORY_BYTES = 512 * 2**20  # uint8 images kept for evaluation; where there are more, a random part of them is used
QUERIES = 0.25  # of the images, those that are asked about, where not all are taken; more if the others are few
# While training, a part is enough to see the curve; the last evaluation takes everything.
CURVE_BANK, CURVE_QUERIES = 2_000, 1_000
BATCH = 256
TRIAL = 32  # images from which the time of an evaluation is guessed where none was made before


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """Images of one size and their classes, in random order: (N, H, W, 3) uint8 and (N,) int64."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """A bank of pretraining images and held-out queries, with the questions asked of them.

    `reading_seconds`: what it took to read them. `left_out`: how many more there would be.
    """

    bank: LabelledSet
    queries: LabelledSet
    config: Config
    recipe: ViewRecipe
    reading_seconds: float = 0.0
    left_out: int = 0

    def curve(self, backbone: nn.Module) -> Iterator[tuple[str, float]]:
        """("knn_top1", share) on a part of the images, for the curve while training."""
        return self._monitor(CURVE_BANK, CURVE_QUERIES)(backbone)

    def baselines(self, backbone: nn.Module) -> dict[str, float]:
        """knn_pixels and, of the network as it is, knn_random_init, with what they took and what is to be expected."""
        start = time.perf_counter()
        pixels = self.pixels()
        middle = time.perf_counter()
        random_init = self.final(backbone)
        end = time.perf_counter()
        images = len(self.bank.labels) + len(self.queries.labels)
        return {
            "knn_pixels": pixels,
            "knn_random_init": random_init,
            "monitor_seconds": end - start,
            **self.expected((end - middle) / images),
        }

    def expected(self, seconds_per_image: float) -> dict[str, float]:
        """Seconds of an evaluation while training and of the one at the end (see `moco.training.allowance`)."""
        bank, queries = len(self.bank.labels), len(self.queries.labels)
        part = min(bank, CURVE_BANK) + min(queries, CURVE_QUERIES)
        return {"curve_seconds": part * seconds_per_image, "final_seconds": (bank + queries) * seconds_per_image}

    def seconds_per_image(self, backbone: nn.Module) -> float:
        """A guess from a few images, the first pass over which is left out."""
        images = self.bank.images[:TRIAL]
        for _ in range(2):
            start = time.perf_counter()
            extract_features(backbone, self._batches(images)(), bf16=self._bf16)
        return (time.perf_counter() - start) / len(images)

    def final(self, backbone: nn.Module) -> float:
        """kNN accuracy on all bank images and queries, 0 to 1."""
        return dict(self._monitor(None, None)(backbone))["knn_top1"]

    def pixels(self) -> float:
        """The same for raw pixels at 32 px, centred on the bank's mean."""
        bank, mean = pixel_features(self.bank.images)
        queries, _ = pixel_features(self.queries.images, mean=mean)
        return knn_accuracy(
            bank,
            torch.from_numpy(self.bank.labels),
            queries,
            torch.from_numpy(self.queries.labels),
            num_neighbors=self.config.num_neighbors,
            knn_temperature=self.config.knn_temperature,
        )

    @property
    def protocol(self) -> str:
        """What the figures are, in a sentence."""
        return (
            f"{self.config.num_neighbors}-NN, cosine, exp(similarity / {self.config.knn_temperature}), "
            f"backbone features in {self.config.precision}, {self.extent}, last step"
        )

    @property
    def extent(self) -> str:
        """How many images are on each side."""
        return f"{len(self.bank.labels)} bank and {len(self.queries.labels)} held-out images"

    @property
    def _bf16(self) -> bool:
        return self.config.precision == "bf16"

    def _monitor(self, bank: int | None, queries: int | None) -> KnnMonitor:
        return KnnMonitor(
            self._batches(self.bank.images[:bank]),
            torch.from_numpy(self.bank.labels[:bank]),
            self._batches(self.queries.images[:queries]),
            torch.from_numpy(self.queries.labels[:queries]),
            num_neighbors=self.config.num_neighbors,
            knn_temperature=self.config.knn_temperature,
            bf16=self._bf16,
        )

    def _batches(self, images: np.ndarray) -> Callable[[], Iterator[Tensor]]:
        return lambda: normalized_batches(images, mean=self.recipe.mean, std=self.recipe.std, batch_size=BATCH)


def prepare(
    source: Source,
    bank_indices: np.ndarray,
    test: Source,
    test_indices: np.ndarray,
    *,
    config: Config,
    recipe: ViewRecipe,
    skipped: SkippedFiles,
    most: int,
) -> Monitoring:
    """Read the evaluation images once, `most` of both sets together at most.

    Raises:
        ConfigError: fewer bank images than num_neighbors.
        DataError: no image can be read.
    """
    start = time.perf_counter()
    known, asked = _labelled(source, bank_indices), _labelled(test, test_indices)
    room = min(most, MEMORY_BYTES // (3 * config.image_size**2))
    count = min(len(asked), max(1, int(QUERIES * room), room - len(known)))
    bank = _read(source, known, room - count, config, skipped)
    queries = _read(test, asked, count, config, skipped)
    if len(bank.labels) < config.num_neighbors:
        more = ", raise --knn-images" if len(bank.labels) < len(known) else ""
        raise ConfigError(
            f"num_neighbors={config.num_neighbors} with {len(bank.labels)} labelled images: "
            f"lower --num-neighbors{more}, or switch the monitor off with --knn-evaluations 0"
        )
    left_out = max(0, len(known) + len(asked) - room)
    return Monitoring(bank, queries, config, recipe, time.perf_counter() - start, left_out)


def _labelled(source: Source, indices: np.ndarray) -> np.ndarray:
    assert source.labels is not None
    known: np.ndarray = indices[source.labels[indices] >= 0]
    return known


def _read(source: Source, indices: np.ndarray, most: int, config: Config, skipped: SkippedFiles) -> LabelledSet:
    assert source.labels is not None
    order = np.random.default_rng(config.seed).permutation(len(indices))[: max(1, most)]
    images, kept = fixed_images(source, indices[order], image_size=config.image_size, skipped=skipped)
    return LabelledSet(images, source.labels[kept])
