"""kNN while training: the same question asked of every backbone, beside raw pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.skipped import SkippedFiles
from moco.errors import ConfigError
from moco.evaluation.knn import knn_accuracy, pixel_features
from moco.evaluation.monitor import prepare_monitor

OPTIONS = {
    "image_size": 8,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "num_neighbors": 5,
    "knn_temperature": 0.1,
    "most_images": 4000,
    "seed": 0,
    "bf16": False,
}


def two_clouds(rows: int, seed: int) -> ArraySource:
    """Images whose first channel is bright (class 1) or dark (class 0), in noise."""
    labels = np.arange(rows) % 2
    images = np.random.default_rng(seed).integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
    images[..., 0] = images[..., 0] // 4 + (labels * 180)[:, None, None].astype(np.uint8)
    return ArraySource(images, labels)


class Channel(nn.Module):
    """Features: one channel of the image."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.index].flatten(1)


def monitor(**changes):
    bank, queries = two_clouds(60, 0), two_clouds(40, 1)
    options = {**OPTIONS, "skipped": SkippedFiles(), **changes}
    return prepare_monitor(bank, np.arange(60), queries, np.arange(40), **options)


def test_a_backbone_that_sees_the_class_scores_and_one_that_does_not_is_at_chance():
    made = monitor()
    assert dict(made.curve(Channel(0))) == {"knn_top1": 1.0}
    assert made.final(Channel(0)) == 1.0
    assert made.final(Channel(1)) < 0.8
    assert [made.final(Channel(1)) for _ in range(2)] == [made.final(Channel(1))] * 2
    assert "60 bank and 40 held-out images" in made.protocol


def test_the_baselines_are_the_network_as_it_is_and_raw_pixels():
    made = monitor()
    values = made.baselines(Channel(1))
    assert values["knn_random_init"] == made.final(Channel(1))
    assert values["evaluation_seconds"] > 0
    bank, queries = (pixel_features(np.stack(list(two_clouds(rows, seed)))) for rows, seed in ((60, 0), (40, 1)))
    labels, mean = torch.arange(60) % 2, bank.mean(dim=0)
    expected = knn_accuracy(bank - mean, labels, queries - mean, labels[:40], num_neighbors=5, knn_temperature=0.1)
    assert values["knn_pixels"] == pytest.approx(expected)


def test_the_verdict_is_on_the_final_figure_beside_pixels_and_the_start():
    made, values = monitor(), {"knn_top1": 0.8, "knn_pixels": 0.4, "knn_random_init": 0.3}
    assert made.verdict(values) == "better than untrained and raw pixels: the features are worth using"
    assert made.verdict({**values, "knn_pixels": 1.0}).startswith("better than untrained, worse than raw pixels: ")
    assert "not decided against untrained" in made.verdict({**values, "knn_random_init": 0.75})


def test_bf16_is_the_precision_of_the_features():
    seen = []

    class Noting(Channel):
        def forward(self, x):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    for bf16 in (True, False):
        monitor(bf16=bf16).final(Noting(0))
        assert set(seen) == {bf16}
        seen.clear()


def test_a_part_of_the_images_is_drawn_from_the_seed_and_said():
    made, again, other = (monitor(most_images=40, seed=seed) for seed in (0, 0, 1))
    assert (len(made.bank), len(made.queries), made.left_out) == (30, 10, 60)
    names = [[m.bank.source.item_name(i) for i in range(30)] for m in (made, again, other)]
    assert names[0] == names[1] != names[2]
    assert "60 left out" in made.extent


def test_unlabelled_images_are_neither_asked_nor_answered():
    bank, queries = two_clouds(60, 0), two_clouds(40, 1)
    labels = np.where(np.arange(60) < 20, -1, np.arange(60) % 2)
    made = prepare_monitor(
        bank.with_labels(labels, ()), np.arange(60), queries, np.arange(40), skipped=SkippedFiles(), **OPTIONS
    )
    assert len(made.bank) == 40
    assert made.bank.targets.min() == 0


def test_more_neighbours_than_bank_images_are_refused_before_training():
    with pytest.raises(ConfigError, match="num_neighbors=61 with 60"):
        monitor(num_neighbors=61)


def test_damaged_images_are_left_out_and_noted(photos):
    sorted(photos.rglob("*.jpg"))[4].write_bytes(b"no image")
    source, skipped = FolderSource(photos), SkippedFiles()
    made = prepare_monitor(source, np.arange(12), source, np.arange(12, 24), skipped=skipped, **OPTIONS)
    assert (len(made.bank), len(made.queries), skipped.count) == (11, 12, 1)
