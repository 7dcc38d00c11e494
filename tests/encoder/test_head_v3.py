"""MoCo v3's heads: layers, names, and the numbers of parameters of the authors' files."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.export.foreign_files import v3_head
from torch import nn

from moco.encoder import build_encoder, v3_predictor, v3_projector
from moco.errors import ArchitectureError


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


HEADS = ["v3-resnet", "v3-vit"]


@pytest.mark.parametrize(
    ("backbone", "head", "parameters"),
    [
        ("resnet50", "v3-resnet", 68_012_160),
        ("v3/vit_small", "v3-vit", 84_266_752),
        ("v3/vit_base", "v3-vit", 215_678_464),
    ],
)
def test_encoders_heads_and_predictor_have_the_parameters_of_the_authors_files(backbone, head, parameters):
    if backbone.startswith("v3/"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        encoder_q = build_encoder(backbone, image_size=224, embedding_dim=256, head=head)
        predictor = v3_predictor(256, head=head)
    assert count(encoder_q) + count(copy.deepcopy(encoder_q)) + count(predictor) == parameters


@pytest.mark.parametrize("head", HEADS)
def test_heads_have_the_names_and_shapes_of_the_authors_files(head):
    vit = head == "v3-vit"
    projector, predictor = v3_projector(24, 8, head=head, hidden_dim=16), v3_predictor(8, head=head, hidden_dim=16)
    theirs = v3_head([24, 16, 16, 8] if vit else [24, 16, 8]), v3_head([8, 16, 8], last_bn=vit)
    for ours, other in zip((projector, predictor), theirs, strict=True):
        assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
            (k, v.shape) for k, v in other.state_dict().items()
        ]
    linear = {f"{place}.weight" for place in ((0, 3, 6) if vit else (0, 3))}
    assert {name for name in projector.state_dict() if projector.state_dict()[name].ndim == 2} == linear


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_are_centred_and_scaled_where_a_head_ends_with_batchnorm(head):
    torch.manual_seed(0)
    projector, predictor = v3_projector(24, 8, head=head, hidden_dim=16), v3_predictor(8, head=head, hidden_dim=16)
    embeddings = projector(torch.randn(64, 24))
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings.std(0, correction=0), torch.ones(8), atol=2e-2, rtol=0)
    predicted = predictor(embeddings).std(0, correction=0)
    assert ((predicted - 1).abs().max() < 2e-2) == (head == "v3-vit")
    assert all(layer.bias is None for part in (projector, predictor) for layer in part if isinstance(layer, nn.Linear))


def test_the_hidden_width_is_the_users_or_the_papers():
    assert build_encoder("resnet_tiny", image_size=16, embedding_dim=8, head="v3-vit").head[0].out_features == 4096
    for head in (*HEADS, "mlp"):
        encoder = build_encoder("resnet_tiny", image_size=16, embedding_dim=8, head=head, hidden_dim=12)
        assert encoder.head[0].out_features == 12
        assert encoder(torch.randn(4, 3, 16, 16)).shape == (4, 8)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"head": "linear", "hidden_dim": 3}, "no layer in between"),
        ({"head": "v3-vit", "hidden_dim": 0}, "hidden_dim=0"),
    ],
)
def test_impossible_widths_are_refused(options, complaint):
    with pytest.raises(ArchitectureError, match=complaint):
        build_encoder("resnet_tiny", image_size=16, embedding_dim=8, **options)
