"""Projection heads, and the encoder they make."""

import copy

import pytest
import torch
from torch import nn

from moco.encoder import Encoder, build_backbone, build_encoder, linear_head, mlp_head
from moco.errors import ArchitectureError


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_two_v2_encoders_of_resnet50_have_the_parameters_of_the_authors_checkpoint() -> None:
    with torch.device("meta"):
        encoder_q = build_encoder("resnet50", image_size=224, embedding_dim=128, head="mlp")
    encoder_k = copy.deepcopy(encoder_q)
    assert count(encoder_q) + count(encoder_k) == 55_933_312


def test_heads_have_the_names_and_shapes_of_the_authors_files() -> None:
    v1 = {key: tuple(value.shape) for key, value in linear_head(512, 128).state_dict().items()}
    assert v1 == {"weight": (128, 512), "bias": (128,)}
    v2 = {key: tuple(value.shape) for key, value in mlp_head(512, 128).state_dict().items()}
    assert v2 == {"0.weight": (512, 512), "0.bias": (512,), "2.weight": (128, 512), "2.bias": (128,)}
    assert mlp_head(512, 128, hidden=64)[2].in_features == 64


def test_the_mlp_head_is_linear_relu_linear() -> None:
    head, x = mlp_head(6, 3), torch.randn(5, 6)
    hidden = (x @ head[0].weight.T + head[0].bias).clamp(min=0)
    torch.testing.assert_close(head(x), hidden @ head[2].weight.T + head[2].bias)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_an_encoder_is_its_head_on_its_backbone(head: str) -> None:
    encoder = build_encoder("resnet_tiny", image_size=32, embedding_dim=24, head=head)  # type: ignore[arg-type]
    encoder.eval()
    x = torch.randn(3, 3, 32, 32)
    features = encoder.backbone(x)
    assert features.shape == (3, encoder.feature_dim)
    assert encoder(x).shape == (3, encoder.embedding_dim) == (3, 24)
    assert torch.equal(encoder(x), encoder.head(features))
    assert (encoder.architecture, encoder.stem) == ("resnet_tiny", "3x3-stride2")
    assert {key.split(".")[0] for key in encoder.state_dict()} == {"backbone", "head"}


def test_a_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        encoder = build_encoder("resnet_tiny", image_size=32, embedding_dim=8)
        return torch.cat([parameter.flatten() for parameter in encoder.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("options", "complaint"), [({"head": "conv"}, "head='conv'"), ({"embedding_dim": 0}, "dim=0")])
def test_impossible_heads_are_refused(options: dict, complaint: str) -> None:
    with pytest.raises(ArchitectureError, match=complaint):
        build_encoder("resnet_tiny", **({"image_size": 32, "embedding_dim": 8} | options))


def test_a_head_that_does_not_fit_its_backbone_is_refused() -> None:
    backbone = build_backbone("resnet_tiny", image_size=32)
    with pytest.raises(ArchitectureError, match="a head for 64 features on resnet_tiny: need 128"):
        Encoder(backbone, linear_head(64, 8))
    with pytest.raises(ArchitectureError, match=r"without nn\.Linear"):
        Encoder(backbone, nn.ReLU())
