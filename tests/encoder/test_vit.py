"""MoCo v3's ViTs: positions, start, heads, stems, sizes."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from moco.contrast.batchnorm import has_batchnorm
from moco.encoder import build_backbone, freeze_patch_projection_, zero_residuals_
from moco.encoder.vit import sincos_positions
from moco.errors import ArchitectureError

pytest.importorskip("timm")


def vit(name: str = "v3/vit_tiny_patch8", *, image_size: int = 32, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone(name, image_size=image_size, **options).module


def test_positions_are_sines_and_cosines_of_column_and_row():
    side, width = 3, 16
    positions = sincos_positions(side, side, width)
    assert positions.shape == (1, 10, width)
    assert not positions[0, 0].any(), "the class token has none"
    for row in range(side):
        for column in range(side):
            expected = []
            for place in (column, row):
                for wave in (math.sin, math.cos):
                    expected += [wave(place / 10_000 ** (number / 4)) for number in range(4)]
            found = positions[0, 1 + row * side + column]
            torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_positions_are_fixed():
    module = vit()
    assert torch.equal(module.pos_embed, sincos_positions(4, 4, 192))
    module(torch.randn(2, 3, 32, 32)).sum().backward()
    assert module.pos_embed.grad is None
    assert module.cls_token.grad is not None


def uniform_up_to(weight: torch.Tensor, bound: float) -> bool:
    """Within the bound, close to it at the ends, and of a uniform distribution's standard deviation."""
    flat = weight.detach().flatten()
    reaches = 0.99 * bound < flat.abs().max() <= bound
    return bool(reaches) and math.isclose(flat.std().item(), bound / math.sqrt(3), rel_tol=0.03)


def test_weights_start_as_in_the_paper():
    module, width = vit(), 192
    block = module.blocks[0]
    assert uniform_up_to(block.attn.qkv.weight, math.sqrt(6 / (width + width))), "q, k and v are three matrices"
    assert uniform_up_to(block.attn.proj.weight, math.sqrt(6 / (width + width)))
    assert uniform_up_to(block.mlp.fc1.weight, math.sqrt(6 / (width + 4 * width)))
    assert uniform_up_to(module.patch_embed.proj.weight, math.sqrt(6 / (3 * 8 * 8 + width)))
    assert 0 < module.cls_token.abs().max() < 1e-5
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name


@pytest.mark.parametrize(
    ("name", "width", "heads", "depth"),
    [
        ("v3/vit_tiny", 192, 6, 12),
        ("v3/vit_small", 384, 12, 12),
        ("v3/vit_base", 768, 12, 12),
        ("v3/vit_conv_tiny", 192, 6, 11),
        ("v3/vit_conv_small", 384, 12, 11),
        ("v3/vit_conv_base", 768, 12, 11),
    ],
)
def test_sizes(name, width, heads, depth):
    with torch.device("meta"):
        backbone = build_backbone(name, image_size=224)
    assert (backbone.architecture, backbone.feature_dim, len(backbone.module.blocks)) == (name, width, depth)
    assert backbone.module.blocks[0].attn.num_heads == heads
    assert backbone.module.pos_embed.shape == (1, 1 + 14 * 14, width)


def test_the_feature_is_the_class_token_after_the_norm():
    module = vit().eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(module(images), module.forward_features(images)[:, 0])


def test_a_convolutional_stem_halves_the_image_four_times():
    module = vit("v3/vit_conv_tiny", image_size=64)
    stem = module.patch_embed.proj
    convolutions = [layer for layer in stem if isinstance(layer, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convolutions] == [
        (3, 2, 24),
        (3, 2, 48),
        (3, 2, 96),
        (3, 2, 192),
        (1, 1, 192),
    ]
    assert [type(layer) for layer in stem] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 4 + [nn.Conv2d]
    assert has_batchnorm(module)
    assert not has_batchnorm(vit())
    assert module(torch.randn(2, 3, 64, 64)).shape == (2, 192)
    tokens = module.patch_embed(torch.randn(2, 3, 64, 64))
    assert tokens.shape == (2, 16, 192)
    with pytest.raises(ArchitectureError, match="no patch projection"):
        freeze_patch_projection_(module, "v3/vit_conv_tiny")


@pytest.mark.parametrize(
    ("name", "size"), [("v3/vit_conv_tiny_patch4", 32), ("v3/vit_tiny_patch4", 32), ("v3/vit_tiny", 48)]
)
def test_small_images_take_small_patches(name, size):
    module = vit(name, image_size=size, channels=1)
    assert module(torch.randn(2, 1, size, size)).shape == (2, 192)
    assert module.patch_embed.num_patches == (size // (4 if "patch4" in name else 16)) ** 2


def test_a_frozen_patch_projection_stays_as_it_was_drawn():
    module = vit()
    freeze_patch_projection_(module, "x")
    before = {name: value.clone() for name, value in module.state_dict().items() if "proj." in name}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    still = {name for name, value in before.items() if torch.equal(value, module.state_dict()[name])}
    assert still == {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_torchvisions_vits_have_a_patch_projection_too():
    with torch.device("meta"):
        module = build_backbone("vit_b_16", image_size=32).module
    freeze_patch_projection_(module, "x")
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv_proj.weight", "conv_proj.bias"}


def test_a_seed_decides_the_weights():
    one, two, other = (torch.cat([p.flatten() for p in vit(seed=seed).parameters()]) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("v3/vit_small", 225, "multiple of the patch, 16 px; use image_size 224 or 240, or another patch"),
        ("v3/vit_tiny_patch8", 4, "use image_size 8, or another patch (v3/vit_tiny_patchN)"),
        ("v3/vit_huge", 224, "choose one of v3/vit_tiny, v3/vit_small"),
        ("v3/vit_conv_tiny_patch6", 36, "need 2, 4, 8 or 16"),
        ("v3/vit_tiny_patch0", 36, "need at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(name, size, message):
    with pytest.raises(ArchitectureError) as caught:
        build_backbone(name, image_size=size)
    assert message in str(caught.value)


def test_without_timm_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)  # makes its import fail
    with pytest.raises(ArchitectureError, match=r"v3/vit_tiny needs timm: pip install 'moco-contrast\[timm\]'"):
        build_backbone("v3/vit_tiny", image_size=32)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "resnet50", "resnet_tiny"])
def test_zeroed_residuals_make_every_block_an_identity(name):
    module = build_backbone(name, image_size=32).module
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    zero_residuals_(module, name)
    block = module.layer1[0]
    x = torch.rand(2, 64 if name != "resnet_tiny" else 16, 8, 8)
    expected = x if block.downsample is None else block.downsample(x)
    torch.testing.assert_close(block(x), expected.clamp(min=0))
    blocks = [part for part in module.modules() if hasattr(part, "downsample")]
    zeros = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and not layer.weight.any()]
    assert len(zeros) == len(blocks)


def test_zeroed_residuals_need_a_resnet():
    with pytest.raises(ArchitectureError, match="no residual blocks"):
        zero_residuals_(vit(), "v3/vit_tiny")
