"""MoCo v3's projection and prediction heads (2104.02057): linear layers without bias, each with a BatchNorm.

N: images   C: embedding width   D: feature width
"""

import itertools
from typing import Literal

from torch import nn

from moco.errors import ArchitectureError

HeadV3 = Literal["v3-resnet", "v3-vit"]
HIDDEN_DIM = 4096  # the paper's width between the layers
# Linear layers of the projector; whether the predictor ends with a BatchNorm. The projector always does.
PROJECTOR_LAYERS = {"v3-resnet": 2, "v3-vit": 3}
PREDICTOR_ENDS_WITH_BATCHNORM = {"v3-resnet": False, "v3-vit": True}


def v3_projector(feature_dim: int, embedding_dim: int, *, head: HeadV3, hidden_dim: int = HIDDEN_DIM) -> nn.Sequential:
    """(N, D) -> (N, C): two linear layers for ResNets, three for ViTs, the last followed by BatchNorm as well.

    In the authors' files: fc.{0,1,3,4}.* of a ResNet, head.{0,1,3,4,6,7}.* of a ViT.
    """
    hidden = [hidden_dim] * (PROJECTOR_LAYERS[_checked(head, hidden_dim)] - 1)
    return _linear_batchnorm([feature_dim, *hidden, embedding_dim], ends_with_batchnorm=True)


def v3_predictor(embedding_dim: int, *, head: HeadV3, hidden_dim: int = HIDDEN_DIM) -> nn.Sequential:
    """(N, C) -> (N, C) on the query's side only: two linear layers; a BatchNorm at the end for ViTs alone.

    In the authors' files: predictor.{0,1,3}.*, and the buffers of predictor.4 for a ViT.
    """
    ends = PREDICTOR_ENDS_WITH_BATCHNORM[_checked(head, hidden_dim)]
    return _linear_batchnorm([embedding_dim, hidden_dim, embedding_dim], ends_with_batchnorm=ends)


def _checked(head: str, hidden_dim: int) -> str:
    if head not in PROJECTOR_LAYERS:
        raise ArchitectureError(f"head={head!r}: need one of {', '.join(PROJECTOR_LAYERS)}")
    if hidden_dim < 1:
        raise ArchitectureError(f"hidden_dim={hidden_dim}: need at least 1; the paper uses {HIDDEN_DIM}")
    return head


def _linear_batchnorm(widths: list[int], *, ends_with_batchnorm: bool) -> nn.Sequential:
    """BatchNorm and ReLU between the layers; the BatchNorm at the end has no weights of its own."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    del layers[-2:]
    if ends_with_batchnorm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
