"""Average precision: what is reported where an image may have several classes.

M: images   C: classes
"""

import torch
from torch import Tensor


def average_precision(scores_MC: Tensor, targets_MC: Tensor) -> Tensor:
    """Average precision of each class, (C,) float64 in [0, 1]; NaN for a class that no image has.

    Images are ranked by score; the mean, over the images that have the class, of the precision down to and including
    the last image of an equal score. The area under the precision-recall curve without interpolation. `targets_MC`:
    1 where the image has the class, else 0.
    """
    order_MC = scores_MC.argsort(dim=0, descending=True, stable=True)
    ranked_MC = scores_MC.gather(0, order_MC)
    hits_MC = targets_MC.double().gather(0, order_MC)
    found_MC = hits_MC.cumsum(dim=0)
    precision_MC = found_MC / torch.arange(1, len(hits_MC) + 1, dtype=torch.float64)[:, None]
    ends_MC = _ends_of_ties(ranked_MC)
    return (hits_MC * precision_MC.gather(0, ends_MC)).sum(dim=0) / found_MC[-1]


def mean_average_precision(scores_MC: Tensor, targets_MC: Tensor) -> float:
    """Mean over the classes that at least one image has (mAP), 0 to 1; NaN where there is none."""
    return average_precision(scores_MC, targets_MC).nanmean().item()


def _ends_of_ties(ranked_MC: Tensor) -> Tensor:
    """For each rank, the last rank with the same score."""
    last = len(ranked_MC) - 1
    is_end = torch.ones_like(ranked_MC, dtype=torch.bool)
    is_end[:-1] = ranked_MC[1:] != ranked_MC[:-1]
    ranks = torch.arange(last + 1)[:, None].expand_as(ranked_MC)
    ends = torch.where(is_end, ranks, last)
    return ends.flip(0).cummin(dim=0).values.flip(0)
