"""Scores of features that need no labels: how spread out, how many dimensions, how close the views of one image are.

N: images   D: feature width
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.errors import DataError

_SMALLEST = 1e-7  # of a share of the singular values; RankMe's epsilon
_ROWS = 1024


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
