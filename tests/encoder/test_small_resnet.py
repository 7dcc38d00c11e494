"""Our own small ResNet."""

import pytest
import torch
from torch import nn

from moco.encoder import SmallResNet, build_backbone


@pytest.mark.parametrize(("name", "width"), [("resnet_tiny", 128), ("resnet_small", 256), ("resnet_medium", 512)])
@pytest.mark.parametrize("image_size", [16, 32, 64])
def test_features_are_eight_times_the_first_width_at_any_size(name: str, width: int, image_size: int) -> None:
    backbone = build_backbone(name, image_size=image_size)
    assert (backbone.architecture, backbone.stem, backbone.feature_dim) == (name, "3x3-stride2", width)
    assert backbone.module(torch.randn(4, 3, image_size, image_size)).shape == (4, width)


@pytest.mark.parametrize(("stem", "image_size", "stride"), [("auto", 32, 2), ("small", 32, 1), ("small", 64, 2)])
def test_the_stem_is_fast_unless_asked_otherwise(stem: str, image_size: int, stride: int) -> None:
    backbone = build_backbone("resnet_tiny", image_size=image_size, stem=stem)  # type: ignore[arg-type]
    assert backbone.stem == f"3x3-stride{stride}"
    assert backbone.module.get_submodule("conv1").stride == (stride, stride)


def test_it_is_torchvisions_resnet_of_one_block_a_stage_at_width_64() -> None:
    from torchvision.models.resnet import BasicBlock, ResNet

    theirs = ResNet(BasicBlock, [1, 1, 1, 1])
    theirs.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    theirs.maxpool, theirs.fc = nn.Identity(), nn.Identity()
    ours = SmallResNet(width=64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_activations_neither_vanish_nor_explode_at_the_start() -> None:
    torch.manual_seed(0)
    features = SmallResNet()(torch.randn(64, 3, 32, 32))
    assert 0.1 < features.std().item() < 10
    assert features.std(dim=0).mean() > 0.01, "all images have the same features"


def test_memory_format_changes_no_value() -> None:
    torch.manual_seed(0)
    module, x = SmallResNet(width=16).eval(), torch.randn(4, 3, 32, 32)
    expected = module(x)
    channels_last = module.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, expected, rtol=1e-4, atol=1e-5)
