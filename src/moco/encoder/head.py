"""Projection and prediction heads, and the encoder that they make with a backbone.

N: images   C: embedding width   D: feature width
"""

import itertools
from typing import Literal, get_args

from torch import Tensor, nn

from moco.encoder.backbone import Backbone, build_backbone
from moco.encoder.stem import Stem
from moco.errors import ArchitectureError
from moco.sizes import Size

Head = Literal["linear", "mlp", "none", "v3-resnet", "v3-vit"]
HIDDEN_DIM = 4096  # the paper's width between the layers
# Linear layers of the projector; whether the predictor ends with a BatchNorm. The projector always does.
PROJECTOR_LAYERS = {"v3-resnet": 2, "v3-vit": 3}
PREDICTOR_ENDS_WITH_BATCHNORM = {"v3-resnet": False, "v3-vit": True}


def linear_head(feature_dim: int, embedding_dim: int) -> nn.Linear:
    """MoCo v1's head (1911.05722): one linear layer, (N, D) -> (N, C). In the authors' files: fc.weight, fc.bias."""
    return nn.Linear(feature_dim, embedding_dim)


def mlp_head(feature_dim: int, embedding_dim: int, hidden: int | None = None) -> nn.Sequential:
    """MoCo v2's head (2003.04297): linear, ReLU, linear, with biases, without BatchNorm; (N, D) -> (N, C).

    `hidden`: width between the layers, by default the feature width. In the authors' files: fc.0.*, fc.2.*.
    """
    hidden = feature_dim if hidden is None else hidden
    return nn.Sequential(nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, embedding_dim))


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


class Encoder(nn.Module):
    """Backbone, then head: images (N, ...) -> features (N, D) -> embeddings (N, C), not normalised.

    A head that is `nn.Identity` leaves the features as embeddings.

    Attributes: `backbone` and `head` (modules); `feature_dim` (D), `embedding_dim` (C); `architecture` and `stem`
    (names, for the metadata of saved weights). Raises ArchitectureError where the head has no linear layer to read its
    width from, or where its first linear layer does not take the backbone's features.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        if not linear and not isinstance(head, nn.Identity):
            raise ArchitectureError(f"a head {type(head).__name__} without nn.Linear: need one to know its width")
        if linear and linear[0].in_features != backbone.feature_dim:
            raise ArchitectureError(
                f"a head for {linear[0].in_features} features on {backbone.architecture}: need {backbone.feature_dim}"
            )
        self.backbone = backbone.module
        self.head = head
        self.feature_dim = backbone.feature_dim
        self.embedding_dim = linear[-1].out_features if linear else backbone.feature_dim
        self.architecture = backbone.architecture
        self.stem = backbone.stem

    def forward(self, x: Tensor) -> Tensor:
        embeddings: Tensor = self.head(self.backbone(x))
        return embeddings


def build_encoder(
    name: str | nn.Module,
    *,
    image_size: Size,
    embedding_dim: int,
    head: Head = "mlp",
    hidden_dim: int | None = None,
    stem: Stem = "auto",
    channels: int = 3,
    num_heads: int | None = None,
) -> Encoder:
    """Encoder with the backbone called `name`, or with a module (see `build_backbone`), and a projection head.

    `head`: of v1 ("linear"), v2 ("mlp"), v3 ("v3-resnet", "v3-vit"), or "none", features as they are
    (CURL). `hidden_dim`: width between the head's layers; None means the feature width for "mlp" and 4096 for v3's.
    """
    if head not in get_args(Head):
        raise ArchitectureError(f"head={head!r}: need linear (v1), mlp (v2), none, v3-resnet or v3-vit")
    if embedding_dim < 1:
        raise ArchitectureError(f"embedding_dim={embedding_dim}: need at least 1; the papers use 128, v3 256")
    backbone = build_backbone(name, image_size=image_size, stem=stem, channels=channels, num_heads=num_heads)
    return Encoder(backbone, _projection(backbone.feature_dim, embedding_dim, head, hidden_dim))


def _projection(feature_dim: int, embedding_dim: int, head: str, hidden_dim: int | None) -> nn.Module:
    if head in PROJECTOR_LAYERS:
        return v3_projector(feature_dim, embedding_dim, head=head, hidden_dim=hidden_dim)
    if head == "mlp":
        return mlp_head(feature_dim, embedding_dim, hidden_dim)
    if hidden_dim is not None:
        raise ArchitectureError(f"hidden_dim={hidden_dim} with head={head!r}, which has no layer in between")
    if head == "none" and embedding_dim != feature_dim:
        raise ArchitectureError(
            f"embedding_dim={embedding_dim} with head='none' on {feature_dim} features, which are the embeddings then: "
            f"need embedding_dim={feature_dim}, or another head"
        )
    if head == "none":
        return nn.Identity()
    return linear_head(feature_dim, embedding_dim)
