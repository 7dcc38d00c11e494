"""What learning added: kNN of a backbone while it trains, beside random initialisation and raw pixels.

Labels are used for nothing else. The same images answer at every evaluation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from moco.data.base import Source
from moco.data.preprocess import Preprocessing
from moco.data.skipped import SkippedFiles
from moco.errors import ConfigError
from moco.evaluation.features import extract_features
from moco.evaluation.figures import outcome
from moco.evaluation.images import LabelledImages
from moco.evaluation.knn import centred_pixels, knn_accuracy
from moco.evaluation.verdict import CALLED, Compared, verdict
from moco.sizes import Size

QUERIES = 0.25  # of the images, those that are asked about, where not all are taken; more if the others are few
# While training, a part is enough to see the curve; the last evaluation takes everything.
CURVE_BANK, CURVE_QUERIES = 2_000, 1_000


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A bank of pretraining images and held-out queries, in random order, with the question asked of them.

    Attributes:
        bank, queries: the images.
        preprocess: their normalisation.
        num_neighbors, knn_temperature: see `knn_predict`.
        bf16: compute features under bfloat16 autocast.
        left_out: how many more images there would be.
    """

    bank: LabelledImages
    queries: LabelledImages
    preprocess: Preprocessing
    num_neighbors: int
    knn_temperature: float
    bf16: bool
    left_out: int = 0

    def curve(self, backbone: nn.Module) -> Iterator[tuple[str, float]]:
        """("knn_top1", share of 1) on a part of the images, for the curve while training; backbone: (N, C, H, W) to
        (N, D), left as it was.
        """
        yield "knn_top1", self._accuracy(backbone, self.bank.first(self._curve_bank), self.queries.first(CURVE_QUERIES))

    @property
    def _curve_bank(self) -> int:
        return max(CURVE_BANK, self.num_neighbors)

    def final(self, backbone: nn.Module) -> float:
        """kNN accuracy on all bank images and queries, 0 to 1."""
        return self._accuracy(backbone, self.bank, self.queries)

    def baselines(
        self, backbone: nn.Module, *, random: nn.Module | None = None, trained: bool = False
    ) -> dict[str, float]:
        """What a run is compared with, and evaluation_seconds, what they took.

        knn_pixels: raw pixels at 32 px, centred on the bank's mean. knn_random_init: the backbone as it is, or `random`
        where it may be trained. knn_starting_weights: the backbone that is trained, and knn_best of the curve's images.
        """
        start = time.perf_counter()
        bank, queries = centred_pixels(self.bank.centres(), self.queries.centres())
        pixels = self._knn(bank, self.bank.targets, queries, self.queries.targets)
        values = {"knn_pixels": pixels}
        if trained:
            values |= {"knn_starting_weights": self.final(backbone), "knn_best_step": 0}
            whole = len(self.bank) <= self._curve_bank and len(self.queries) <= CURVE_QUERIES
            again = values["knn_starting_weights"] if whole else dict(self.curve(backbone))["knn_top1"]
            values["knn_best"] = again
        if random is not None or not trained:
            values["knn_random_init"] = self.final(backbone if random is None else random)
        return {**values, "evaluation_seconds": time.perf_counter() - start}

    def verdict(self, values: dict[str, float]) -> str | None:
        """In words, what the final knn_top1 among the values is worth beside those of the baselines."""
        beside = {name: values[f"knn_{name}"] for name in CALLED if f"knn_{name}" in values}
        return verdict([Compared(k, outcome(values["knn_top1"], v, len(self.queries))) for k, v in beside.items()])

    @property
    def protocol(self) -> str:
        """What the figures are, in a sentence."""
        return (
            f"{self.num_neighbors}-NN, cosine, exp(similarity / {self.knn_temperature}), "
            f"backbone features in {'bf16' if self.bf16 else 'fp32'}, {self.extent}, last step"
        )

    @property
    def extent(self) -> str:
        """How many images are on each side."""
        left_out = f" ({self.left_out} left out, see --knn-images)" if self.left_out else ""
        return f"{len(self.bank)} bank and {len(self.queries)} held-out images{left_out}"

    def _accuracy(self, backbone: nn.Module, bank: LabelledImages, queries: LabelledImages) -> float:
        known, asked = (
            extract_features(backbone, images.batches(self.preprocess), bf16=self.bf16) for images in (bank, queries)
        )
        return self._knn(known, bank.targets, asked, queries.targets)

    def _knn(self, bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
        options = {"num_neighbors": self.num_neighbors, "knn_temperature": self.knn_temperature}
        return knn_accuracy(bank, bank_labels, queries, labels, **options)


def prepare_monitor(
    source: Source,
    bank_indices: np.ndarray,
    test: Source,
    test_indices: np.ndarray,
    *,
    image_size: Size,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    num_neighbors: int,
    knn_temperature: float,
    most_images: int,
    seed: int,
    bf16: bool,
    skipped: SkippedFiles,
    resize: bool = True,
) -> Monitor:
    """Read the evaluation images once, `most_images` of both sets together at most, drawn from the seed.

    Raises:
        ConfigError: fewer bank images than num_neighbors.
        DataError: no image can be read.
    """
    known, asked, count = _counted(source, bank_indices, test, test_indices, most_images)
    sides = []
    read: dict[str, Any] = {"size": image_size, "skipped": skipped, "resize": resize}
    for side, indices, most in ((source, known, most_images - count), (test, asked, count)):
        assert side.labels is not None
        order = np.random.default_rng(seed).permutation(len(indices))[: max(1, most)]
        sides.append(LabelledImages.read(side, indices[order], side.labels, **read))
    bank, queries = sides
    _check_neighbors(num_neighbors, len(bank), len(known))
    left_out = max(0, len(known) + len(asked) - most_images)
    preprocess = Preprocessing(image_size, mean, std, resize=resize)
    return Monitor(bank, queries, preprocess, num_neighbors, knn_temperature, bf16, left_out)


def check_neighbors(
    source: Source, bank_indices: np.ndarray, test: Source, test_indices: np.ndarray, *, num_neighbors: int, most: int
) -> None:
    """What `prepare_monitor` will find if every image can be read; no image is.

    Raises:
        ConfigError: fewer bank images than num_neighbors.
    """
    known, _, count = _counted(source, bank_indices, test, test_indices, most)
    _check_neighbors(num_neighbors, min(len(known), max(1, most - count)), len(known))


def _check_neighbors(num_neighbors: int, bank: int, known: int) -> None:
    if bank < num_neighbors:
        more = ", raise --knn-images" if bank < known else ""
        raise ConfigError(
            f"num_neighbors={num_neighbors} with {bank} labelled images: "
            f"lower --num-neighbors{more}, or switch the monitor off with --knn-evaluations 0"
        )


def _counted(
    source: Source, bank_indices: np.ndarray, test: Source, test_indices: np.ndarray, most_images: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The labelled images of both sides, and how many queries there will be."""
    known, asked = _labelled(source, bank_indices), _labelled(test, test_indices)
    return known, asked, min(len(asked), max(1, int(QUERIES * most_images), most_images - len(known)))


def _labelled(source: Source, indices: np.ndarray) -> np.ndarray:
    assert source.labels is not None
    known: np.ndarray = indices[source.labels[indices] >= 0]
    return known
