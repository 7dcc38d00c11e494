"""The models: what is trained in them, how they are named, which backbones they take."""

import pytest
import torch
from torch import nn

from moco.encoder import build_backbone
from moco.errors import ArchitectureError
from moco.transfer.networks.c4 import c4_detector
from moco.transfer.networks.detector import anchor_strides, fpn_detector
from tests.transfer.drawn import settings

BUILDERS = {"fpn": fpn_detector, "c4": c4_detector}


def tiny():
    return build_backbone("resnet_tiny", image_size=32).module


def batch(masks=False):
    images = [torch.rand(3, 32, 48) for _ in range(2)]
    target = {"boxes": torch.tensor([[4.0, 4.0, 28.0, 28.0]]), "labels": torch.tensor([1])}
    if masks:
        target["masks"] = torch.ones(1, 32, 48, dtype=torch.uint8)
    return images, [target, target]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("architecture", BUILDERS)
def test_everything_learns_and_no_batchnorm_is_frozen(architecture, masks):
    torch.manual_seed(0)
    model = BUILDERS[architecture](tiny(), settings(architecture=architecture, masks=masks)).train()
    losses = model(*batch(masks))
    torch.stack(list(losses.values())).sum().backward()
    without = [name for name, value in model.named_parameters() if not value.requires_grad or value.grad is None]
    assert without == []
    norms = [layer for layer in model.modules() if "BatchNorm" in type(layer).__name__]
    assert norms
    assert all(type(layer) is nn.BatchNorm2d for layer in norms)
    assert all(layer.num_batches_tracked > 0 for layer in norms)


@pytest.mark.parametrize("architecture", BUILDERS)
def test_images_without_objects_teach_what_background_is(architecture):
    model = BUILDERS[architecture](tiny(), settings(architecture=architecture, masks=True)).train()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    nothing["masks"] = torch.zeros(0, 32, 48, dtype=torch.uint8)
    losses = model(batch()[0], [nothing, nothing])
    assert all(torch.isfinite(value) for value in losses.values())


def test_the_pyramid_has_batchnorm_and_the_heads_have_none():
    model = fpn_detector(tiny(), settings())
    named = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert any(name.startswith("backbone.fpn") for name in named)
    assert not [name for name in named if name.startswith(("rpn", "roi_heads"))]


def test_the_pyramid_begins_at_stride_4():
    """A small stem has a first stage of stride 2, ImageNet's one of stride 4."""
    for name, levels in {"resnet_tiny": 4, "resnet18": 5}.items():
        model = fpn_detector(build_backbone(name, image_size=128).module, settings())
        features = model.backbone(torch.zeros(1, 3, 64, 64))
        assert [64 // value.shape[-1] for value in features.values()][:3] == [4, 8, 16]
        assert len(features) == levels
        assert len(model.rpn.anchor_generator.sizes) == levels


def test_anchors_are_the_papers_at_its_size_and_finer_on_small_images():
    assert anchor_strides(800) == 8
    assert anchor_strides(400) == 4
    assert anchor_strides(128) == 2


def test_c4_of_a_resnet50_has_the_documented_layers_and_parameters():
    """detectron2's VOC model with the extra BatchNorm: res2 to res4, 15 anchors on 1024 channels, res5 as the head."""
    classes = 20
    with torch.device("meta"):
        backbone = build_resnet50()
    backbone.to_empty(device="cpu")
    model = c4_detector(backbone, settings(architecture="c4", categories=classes, side=800, longest=1333))
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts(model).items()}
    assert counts["res5"] == 14_964_736
    assert counts["backbone"] + counts["res5"] == 23_508_032  # ResNet-50 without its classifier
    assert counts["norm"] == 2 * 2048
    assert counts["rpn"] == 9 * 1024**2 + 1024 + 15 * (1024 + 1) + 60 * (1024 + 1)
    assert counts["predictor"] == 2049 * (classes + 1) + 2049 * 4 * (classes + 1)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert model.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)
    assert list(model.backbone) == ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    assert list(dict(model.roi_heads.box_head.named_children())) == ["layer4", "norm", "pool", "flatten"]


def build_resnet50():
    from torchvision.models import resnet50

    backbone = resnet50()
    backbone.fc = nn.Identity()
    return backbone


def parts(model):
    head = model.roi_heads
    found = {"backbone": model.backbone, "rpn": model.rpn, "predictor": head.box_predictor}
    return found | {"res5": head.box_head.layer4, "norm": head.box_head.norm}


def test_masks_and_boxes_share_res5():
    head = c4_detector(tiny(), settings(architecture="c4", masks=True)).roi_heads
    assert head.mask_head.layer4 is head.box_head.layer4
    assert head.mask_head.norm is head.box_head.norm


@pytest.mark.parametrize("build", BUILDERS.values())
def test_a_vit_is_refused_with_the_remedy(build):
    vit = build_backbone("v3/vit_tiny_patch8", image_size=32).module
    with pytest.raises(ArchitectureError, match="has no stages layer1 to layer4.*pretrain a ResNet"):
        build(vit, settings())


def test_keypoints_on_c4_are_refused():
    with pytest.raises(ArchitectureError, match="use fpn"):
        c4_detector(tiny(), settings(architecture="c4", keypoints=3))
