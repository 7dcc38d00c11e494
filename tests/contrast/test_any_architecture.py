"""One step of MoCo v2 with an encoder of each family: what has BatchNorm is cured, what has none needs no cure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moco.contrast import MoCo, moco_step
from moco.contrast.batchnorm import has_batchnorm
from moco.encoder import Encoder, build_backbone, mlp_head

# family: backbone, image size, feature width as its paper or library gives it, BatchNorm
FAMILIES: dict[str, tuple[str, int, int, bool]] = {
    "ResNet": ("resnet18", 32, 512, True),
    "Wide ResNet": ("timm/wide_resnet50_2", 32, 2048, True),
    "ResNeXt": ("timm/resnext26ts", 32, 2048, True),
    "EfficientNet": ("efficientnet_b0", 32, 1280, True),
    "RegNet": ("regnet_y_400mf", 32, 440, True),
    "MobileNet": ("mobilenet_v3_small", 32, 1024, True),
    "DenseNet": ("densenet121", 32, 1024, True),
    "ConvNeXt": ("timm/convnext_atto", 32, 320, False),
    "ViT": ("timm/vit_tiny_patch16_224", 32, 192, False),
    "MoCo v3's ViT": ("v3/vit_tiny", 32, 192, False),
    "MoCo v3's ViT with convolutions": ("v3/vit_conv_tiny", 32, 192, True),
    "Swin": ("swin_t", 32, 768, False),
}


def one_step(encoder: nn.Module, size: int, batch: int = 8) -> MoCo:
    """A step that must move f_q, let f_k follow and bring the keys into the queue."""
    model = MoCo(encoder, dictionary_size=12, embedding_dim=16, key_momentum=0.9, temperature=0.2)
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.05, momentum=0.9)
    before = {name: value.clone() for name, value in model.named_parameters()}
    keys = model.queue.keys_KC.clone()
    loss, _ = moco_step(model, torch.randn(batch, 3, size, size), torch.randn(batch, 3, size, size), optimizer)
    assert loss.isfinite()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    learnt = {name.removeprefix("encoder_q.") for name in moved if name.startswith("encoder_q.")}
    followed = {name.removeprefix("encoder_k.") for name in moved if name.startswith("encoder_k.")}
    # timm's residual blocks begin as identities: most of their weights get their first gradient at the second step.
    assert len(learnt) > 0.3 * len(list(model.encoder_q.parameters()))
    assert followed <= learnt
    assert len(followed) > 0.9 * len(learnt), "a change below float32's resolution is none"
    torch.testing.assert_close(model.queue.keys_KC.norm(dim=1), torch.ones(12))
    assert int((model.queue.keys_KC != keys).any(dim=1).sum()) == batch
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains(family: str) -> None:
    name, size, width, normalises = FAMILIES[family]
    if "/" in name:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = build_backbone(name, image_size=size, stem="standard")
    assert backbone.feature_dim == width
    assert has_batchnorm(backbone.module) == normalises
    model = one_step(Encoder(backbone, mlp_head(width, 16, hidden=16)), size)
    assert model.batchnorm == ("split" if normalises else "none")


def own() -> nn.Module:
    """A module as a user writes it: pooled features (N, 6)."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.GroupNorm(2, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_a_module_of_ones_own_trains_by_name_and_as_it_is() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(f"{__name__}:own", image_size=16)
    assert backbone.feature_dim == 6
    assert one_step(Encoder(backbone, mlp_head(6, 16)), 16).batchnorm == "none"
    assert one_step(nn.Sequential(own(), nn.Linear(6, 16)), 16).batchnorm == "none"
