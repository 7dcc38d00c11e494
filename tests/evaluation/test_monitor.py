"""kNN while training."""

import pytest
import torch
from torch import nn

from moco.errors import ConfigError
from moco.evaluation import KnnMonitor


def two_clouds(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose first channel is bright (class 1) or dark (class 0), in noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 2
    images = torch.randn(rows, 3, 4, 4, generator=rng)
    images[:, 0] += (labels * 8.0 - 4)[:, None, None]
    return images, labels


def channel(index: int) -> nn.Module:
    """Features: one channel of the image."""

    class Channel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, index].flatten(1)

    return Channel()


def monitor(**options) -> KnnMonitor:
    (bank, bank_labels), (queries, query_labels) = two_clouds(60, 0), two_clouds(40, 1)
    arguments = {"bank": lambda: iter(bank.split(16)), "queries": queries.split(7), "num_neighbors": 5} | options
    return KnnMonitor(bank_labels=bank_labels, query_labels=query_labels, knn_temperature=0.1, **arguments)


def test_a_backbone_that_sees_the_class_scores_and_one_that_does_not_is_at_chance() -> None:
    measure = monitor()
    (name, seeing), *rest = measure(channel(0))
    assert (name, rest) == ("knn_top1", [])
    assert seeing == 1.0
    assert dict(measure(channel(1)))["knn_top1"] < 0.75


def test_the_monitor_answers_as_often_as_it_is_asked() -> None:
    measure = monitor()
    assert [dict(measure(channel(1))) for _ in range(2)] == [dict(measure(channel(1)))] * 2


def test_batches_that_can_be_read_only_once_are_refused() -> None:
    for name in ("bank", "queries"):
        with pytest.raises(ConfigError, match=f"{name} is a generator, readable once"):
            monitor(**{name: (batch for batch in two_clouds(60, 0)[0].split(16))})


def test_more_neighbours_than_bank_images_are_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="num_neighbors=61 with 60 bank images"):
        monitor(num_neighbors=61)
