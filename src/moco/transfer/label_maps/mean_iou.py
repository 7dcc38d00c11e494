"""Mean intersection over union from a confusion matrix.

K: classes   P: pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moco.errors import DataError

VOID = 255  # the label of pixels that count neither in training nor in the test


class Confusion:
    """Counts of pixels by true and predicted class, filled image by image.

    Attributes:
        counts_KK: rows are true classes, columns predicted ones.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts_KK = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Count the pixels of label maps of one shape: classes in [0, K), `truth` may also hold `VOID`."""
        classes = len(self.counts_KK)
        seen = truth != VOID
        pairs_P = truth[seen].long() * classes + predicted[seen].long()
        self.counts_KK += torch.bincount(pairs_P, minlength=classes**2).view(classes, classes).cpu()


def intersection_over_union(counts_KK: Tensor) -> Tensor:
    """IoU of each class in 0..1 (K,); NaN for a class that is neither in the truth nor predicted."""
    hits_K = counts_KK.diagonal().double()
    return hits_K / (counts_KK.sum(dim=0) + counts_KK.sum(dim=1) - hits_K)


def scores(confusion: Confusion, classes: Sequence[str]) -> dict[str, float]:
    """mIoU, the share of right pixels and `IoU/class`, in percent.

    The mean leaves out classes that are neither in the truth nor predicted, as VOC's and Cityscapes' evaluations do.

    Raises:
        DataError: no pixel was counted.
    """
    counts_KK = confusion.counts_KK
    if not counts_KK.any():
        raise DataError("every pixel of the test's label maps is void: need maps with classes")
    iou_K = 100 * intersection_over_union(counts_KK)
    right = 100 * counts_KK.diagonal().sum().double() / counts_KK.sum()
    by_class = {f"IoU/{name}": value for name, value in zip(classes, iou_K.tolist(), strict=True)}
    known = {name: value for name, value in by_class.items() if not math.isnan(value)}
    return {"mIoU": iou_K.nanmean().item(), "pixel accuracy": right.item()} | known
