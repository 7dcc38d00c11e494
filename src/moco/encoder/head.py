"""Projection heads, and the encoder they make with a backbone.

N: images   C: embedding width   D: feature width
"""

from typing import Literal, get_args

from torch import Tensor, nn

from moco.encoder.backbone import Backbone, build_backbone
from moco.encoder.head_v3 import PROJECTOR_LAYERS, v3_projector
from moco.encoder.stem import Stem
from moco.errors import ArchitectureError

Head = Literal["linear", "mlp", "v3-resnet", "v3-vit"]


def linear_head(feature_dim: int, embedding_dim: int) -> nn.Linear:
    """MoCo v1's head (1911.05722): one linear layer, (N, D) -> (N, C). In the authors' files: fc.weight, fc.bias."""
    return nn.Linear(feature_dim, embedding_dim)


def mlp_head(feature_dim: int, embedding_dim: int, hidden: int | None = None) -> nn.Sequential:
    """MoCo v2's head (2003.04297): linear, ReLU, linear, with biases, without BatchNorm; (N, D) -> (N, C).

    `hidden`: width between the layers, by default the feature width. In the authors' files: fc.0.*, fc.2.*.
    """
    hidden = feature_dim if hidden is None else hidden
    return nn.Sequential(nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, embedding_dim))


class Encoder(nn.Module):
    """Backbone, then head: images (N, ...) -> features (N, D) -> embeddings (N, C), not normalised.

    Attributes: `backbone` and `head` (modules); `feature_dim` (D), `embedding_dim` (C); `architecture` and `stem`
    (names, for the metadata of saved weights). Raises ArchitectureError where the head has no linear layer to read its
    width from, or where its first linear layer does not take the backbone's features.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise ArchitectureError(f"a head {type(head).__name__} without nn.Linear: need one to know its width")
        if linear[0].in_features != backbone.feature_dim:
            raise ArchitectureError(
                f"a head for {linear[0].in_features} features on {backbone.architecture}: need {backbone.feature_dim}"
            )
        self.backbone = backbone.module
        self.head = head
        self.feature_dim = backbone.feature_dim
        self.embedding_dim = linear[-1].out_features
        self.architecture = backbone.architecture
        self.stem = backbone.stem

    def forward(self, x: Tensor) -> Tensor:
        embeddings: Tensor = self.head(self.backbone(x))
        return embeddings


def build_encoder(
    name: str | nn.Module,
    *,
    image_size: int,
    embedding_dim: int,
    head: Head = "mlp",
    hidden_dim: int | None = None,
    stem: Stem = "auto",
    channels: int = 3,
) -> Encoder:
    """Encoder with the backbone called `name`, or with a module (see `build_backbone`), and a projection head.

    `head`: of v1 ("linear"), v2 ("mlp"), or v3 ("v3-resnet", "v3-vit"). `hidden_dim`: width between the head's layers;
    None means the feature width for "mlp" and 4096 for v3's.
    """
    if head not in get_args(Head):
        raise ArchitectureError(f"head={head!r}: need linear (v1), mlp (v2), v3-resnet or v3-vit")
    if embedding_dim < 1:
        raise ArchitectureError(f"embedding_dim={embedding_dim}: need at least 1; the papers use 128, v3 256")
    backbone = build_backbone(name, image_size=image_size, stem=stem, channels=channels)
    return Encoder(backbone, _projection(backbone.feature_dim, embedding_dim, head, hidden_dim))


def _projection(feature_dim: int, embedding_dim: int, head: str, hidden_dim: int | None) -> nn.Module:
    if head in PROJECTOR_LAYERS:
        return v3_projector(feature_dim, embedding_dim, head=head, hidden_dim=hidden_dim)
    if head == "mlp":
        return mlp_head(feature_dim, embedding_dim, hidden_dim)
    if hidden_dim is not None:
        raise ArchitectureError(f"hidden_dim={hidden_dim} with head='linear', which has no layer in between")
    return linear_head(feature_dim, embedding_dim)
