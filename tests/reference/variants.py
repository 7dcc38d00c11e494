"""MoCo's loss with more queries or other positives, sample by sample, as the papers write it. C: embedding width"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from tests.reference.info_nce import plain_info_nce


def naive_nearest(k_NC: Tensor, keys_KC: Tensor) -> list[int]:
    """The nearest key of the dictionary, one by one."""
    return [max(range(len(keys_KC)), key=lambda row: float(k_C @ keys_KC[row])) for k_C in k_NC]


def naive_loss(q_VNC: list[Tensor], k_NC: Tensor, keys_KC: Tensor, temperature: float, nearest: list[bool]) -> Tensor:
    """Mean over queries and samples. Where `nearest` says so, the nearest key is the positive and no negative."""
    losses, rows = [], naive_nearest(k_NC, keys_KC)
    for q_NC, sample in itertools.product(q_VNC, range(len(k_NC))):
        positive, negatives = k_NC[sample], list(range(len(keys_KC)))
        if nearest[sample]:
            positive = keys_KC[rows[sample]]
            negatives.remove(rows[sample])
        losses.append(plain_info_nce(q_NC[sample][None], positive[None], keys_KC[negatives], temperature))
    return torch.stack(losses).mean()


def naive_patch_queries(backbone, head, x: Tensor) -> list[Tensor]:
    """Six queries of each image: of every two of its four quarters, the head of the features' mean."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    features = [
        backbone(x[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width])
        for row, column in itertools.product(range(2), range(2))
    ]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    return [functional.normalize(head((features[a] + features[b]) / 2), dim=1) for a, b in pairs]
