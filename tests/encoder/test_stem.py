"""The stem that small images get."""

import pytest
import torch
from torch import nn

from moco.encoder import build_backbone
from moco.errors import ArchitectureError


def first_block_size(module: nn.Module, image_size: int) -> int:
    """Side of the grid that enters the first block."""
    seen: list[int] = []
    handle = module.get_submodule("layer1").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[-1])
    )
    with torch.no_grad():
        module.eval()(torch.randn(1, 3, image_size, image_size))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "timm/resnet50d"])
@pytest.mark.parametrize(
    ("image_size", "stem", "grid"),
    [
        (32, "3x3-stride1", 32),
        (33, "3x3-stride2", 17),
        (64, "3x3-stride2", 32),
        (65, "standard", 17),
        (96, "standard", 24),
    ],
)
def test_the_stem_follows_the_image_size(name: str, image_size: int, stem: str, grid: int) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        backbone = build_backbone(name, image_size=image_size)
        assert backbone.stem == stem
        assert first_block_size(backbone.module, image_size) == grid


def test_the_authors_small_stem_is_one_3x3_convolution_without_pooling() -> None:
    module = build_backbone("resnet18", image_size=32).module
    conv = module.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert isinstance(module.get_submodule("maxpool"), nn.Identity)


def test_the_standard_stem_can_be_kept_at_any_size() -> None:
    backbone = build_backbone("resnet18", image_size=32, stem="standard")
    assert backbone.stem == "standard"
    assert first_block_size(backbone.module, 32) == 8


@pytest.mark.parametrize(("image_size", "grid"), [(32, 32), (96, 48)])
def test_a_small_stem_can_be_had_at_any_size(image_size: int, grid: int) -> None:
    backbone = build_backbone("resnet18", image_size=image_size, stem="small")
    assert first_block_size(backbone.module, image_size) == grid


@pytest.mark.parametrize("name", ["convnext_tiny", "densenet121"])
def test_without_a_resnet_stem_auto_changes_nothing_and_small_is_refused(name: str) -> None:
    with torch.device("meta"):
        auto, standard = (build_backbone(name, image_size=64, stem=stem) for stem in ("auto", "standard"))  # type: ignore[arg-type]
        assert auto.stem == "standard"
        assert str(auto.module) == str(standard.module)
        for stem in ("small", "3x3-stride1"):
            with pytest.raises(ArchitectureError, match=f"stem='{stem}' for {name}: only ResNets"):
                build_backbone(name, image_size=64, stem=stem)  # type: ignore[arg-type]


def test_a_factory_keeps_its_own_stem() -> None:
    name = "torchvision.models:mobilenet_v3_small"
    with torch.device("meta"):
        assert build_backbone(name, image_size=32).stem == "standard"
        with pytest.raises(ArchitectureError, match="it has its own first layers"):
            build_backbone(name, image_size=32, stem="small")


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="stem='tiny': need one of auto, small"):
        build_backbone("resnet18", image_size=32, stem="tiny")  # type: ignore[arg-type]
