"""The FCN: the backbone's own weights, one position every 16 pixels, every parameter learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moco.encoder import SmallResNet, build_backbone
from moco.errors import ArchitectureError
from moco.transfer.networks.fcn import FCN, dilated_stages


@pytest.mark.parametrize(
    ("name", "size", "stride", "width"),
    [("resnet18", 224, 16, 512), ("resnet50", 224, 16, 2048), ("resnet18", 32, 4, 512), ("resnet_tiny", 32, 8, 128)],
)
def test_the_last_stage_keeps_the_resolution_of_the_one_before(name, size, stride, width):
    stages, found = dilated_stages(build_backbone(name, image_size=size).module)
    assert found == width
    assert stages.eval()(torch.zeros(1, 3, 64, 96)).shape == (1, width, 64 // stride, 96 // stride)


def test_all_3x3_convolutions_of_the_last_stage_and_no_others_are_dilated():
    stages, _ = dilated_stages(build_backbone("resnet50", image_size=224).module)
    dilated = {name for name, m in stages.named_modules() if isinstance(m, nn.Conv2d) and m.dilation == (2, 2)}
    assert dilated == {f"layer4.{block}.conv2" for block in range(3)}
    assert {m.stride for m in stages.layer4.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_weights_and_names_are_the_backbones_and_it_stays_as_it_was():
    backbone = build_backbone("resnet18", image_size=224).module
    model = FCN(backbone, 4)
    own = {name.removeprefix("backbone."): t for name, t in model.state_dict().items() if name.startswith("backbone.")}
    assert own.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in backbone.state_dict().items())
    assert backbone.layer4[0].conv1.stride == (2, 2)


def test_the_head_is_the_papers():
    head = FCN(SmallResNet(width=4), 7).head
    convolutions = [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.dilation[0]) for m in head if hasattr(m, "dilation")
    ]
    assert convolutions == [(32, 256, 3, 6), (256, 256, 3, 6), (256, 7, 1, 1)]
    assert [type(m).__name__ for m in head][2::3] == ["ReLU", "ReLU"]


def test_logits_have_the_images_size_and_every_parameter_gets_a_gradient():
    model = FCN(SmallResNet(width=4).requires_grad_(False), 3)
    logits = model(torch.randn(2, 3, 45, 61))
    assert logits.shape == (2, 3, 45, 61)
    logits.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    "backbone",
    [build_backbone("v3/vit_tiny_patch8", image_size=32).module, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())],
)
def test_a_backbone_without_stages_is_refused(backbone):
    with pytest.raises(ArchitectureError, match="resnet18"):
        FCN(backbone, 3)


def test_a_backbone_that_does_more_than_its_stages_is_refused():
    class Doubling(SmallResNet):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ArchitectureError, match="more than"):
        FCN(Doubling(width=4), 3)
