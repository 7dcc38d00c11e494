"""mIoU: equal to sets of pixels counted one by one; void pixels count nowhere."""

from __future__ import annotations

import math

import pytest
import torch

from moco.errors import DataError
from moco.transfer.label_maps.mean_iou import VOID, Confusion, intersection_over_union, scores
from tests.reference.mean_iou import mean_iou


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    sizes = [(7, 9), (4, 4), (1, 30)]
    truth = [torch.randint(0, 5, size, generator=generator) for size in sizes]
    guesses = [torch.where(torch.rand(t.shape, generator=generator) < 0.5, t, (t + 1) % 5) for t in truth]
    truth[0][0], truth[1][2, 1] = VOID, VOID
    return list(zip(guesses, truth, strict=True))


def counted(pairs, classes):
    confusion = Confusion(classes)
    for predicted, truth in pairs:
        confusion.add(predicted, truth)
    return confusion


def test_the_mean_equals_that_of_sets_of_pixels(pairs):
    expected, by_class = mean_iou(pairs, 6)
    found = scores(counted(pairs, 6), list("abcdef"))
    assert found["mIoU"] == pytest.approx(100 * expected)
    assert [found[f"IoU/{name}"] for name in "abcde"] == pytest.approx([100 * value for value in by_class[:5]])
    assert math.isnan(by_class[5])
    assert "IoU/f" not in found


@pytest.mark.slow  # importing it takes ten seconds
def test_it_is_torchmetrics_figure(pairs):
    classification = pytest.importorskip("torchmetrics.classification")
    metric = classification.MulticlassJaccardIndex(num_classes=5, ignore_index=VOID, average="none")
    for predicted, truth in pairs:
        metric.update(predicted[None], truth[None])
    torch.testing.assert_close(intersection_over_union(counted(pairs, 5).counts_KK).float(), metric.compute())


def test_the_truth_scores_100(pairs):
    right = [(truth.where(truth != VOID, torch.zeros_like(truth)), truth) for _, truth in pairs]
    found = scores(counted(right, 5), list("abcde"))
    assert found["mIoU"] == found["pixel accuracy"] == 100


def test_what_is_said_of_void_pixels_does_not_count(pairs):
    other = [(predicted.where(truth != VOID, (predicted + 1) % 5), truth) for predicted, truth in pairs]
    assert torch.equal(counted(pairs, 5).counts_KK, counted(other, 5).counts_KK)


def test_nothing_but_void_is_refused():
    with pytest.raises(DataError):
        scores(Confusion(2), list("ab"))
