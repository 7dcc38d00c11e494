"""MoCo v3's projection and prediction heads (2104.02057): linear layers without bias, each with a BatchNorm.

N: images   C: embedding width   D: feature width
"""

import itertools

from torch import nn

from moco.errors import ArchitectureError

HIDDEN_DIM = 4096  # the paper's width between the layers
# Linear layers of the projector; whether the predictor ends with a BatchNorm. The projector always does.
PROJECTOR_LAYERS = {"v3-resnet": 2, "v3-vit": 3}
PREDICTOR_ENDS_WITH_BATCHNORM = {"v3-resnet": False, "v3-vit": True}


def v3_projector(feature_dim: int, embedding_dim: int, *, head: str, hidden_dim: int | None = None) -> nn.Sequential:
    """(N, D) -> (N, C): two linear layers for ResNets, three for ViTs, the last followed by BatchNorm as well.

    `head`: v3-resnet or v3-vit. `hidden_dim`: width between the layers; None means 4096.
    In the authors' files: fc.{0,1,3,4}.* of a ResNet, head.{0,1,3,4,6,7}.* of a ViT.
    """
    hidden = [_checked_width(head, hidden_dim)] * (PROJECTOR_LAYERS[head] - 1)
    return _linear_batchnorm([feature_dim, *hidden, embedding_dim], ends_with_batchnorm=True)


def v3_predictor(embedding_dim: int, *, head: str, hidden_dim: int | None = None) -> nn.Sequential:
    """(N, C) -> (N, C) on the query's side only: two linear layers; a BatchNorm at the end for ViTs alone.

    `head` and `hidden_dim`: as `v3_projector`.
    In the authors' files: predictor.{0,1,3}.*, and the buffers of predictor.4 for a ViT.
    """
    widths = [embedding_dim, _checked_width(head, hidden_dim), embedding_dim]
    return _linear_batchnorm(widths, ends_with_batchnorm=PREDICTOR_ENDS_WITH_BATCHNORM[head])


def _checked_width(head: str, hidden_dim: int | None) -> int:
    if head not in PROJECTOR_LAYERS:
        raise ArchitectureError(f"head={head!r}: need one of {', '.join(PROJECTOR_LAYERS)}")
    if hidden_dim is None:
        return HIDDEN_DIM
    if hidden_dim < 1:
        raise ArchitectureError(f"hidden_dim={hidden_dim}: need at least 1; the paper uses {HIDDEN_DIM}")
    return hidden_dim


def _linear_batchnorm(widths: list[int], *, ends_with_batchnorm: bool) -> nn.Sequential:
    """BatchNorm and ReLU between the layers; the BatchNorm at the end has no weights of its own."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    del layers[-2:]
    if ends_with_batchnorm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
