"""The first layers of a backbone kept as they are."""

from __future__ import annotations

import pytest
from torch import nn

from moco.encoder import build_backbone, freeze_first_layers_
from moco.errors import ArchitectureError


def frozen(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.05, 1), (0.3, 6), (0.5, 10), (0.99, 19)])
def test_so_many_layers_of_a_resnet_learn_nothing_and_the_rest_does(share, count):
    backbone = build_backbone("resnet18", image_size=32, stem="standard").module
    assert freeze_first_layers_(backbone, share, "resnet18") == count
    convolutions = [name for name, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d)]
    held, names = frozen(backbone), [name for name, _ in backbone.named_parameters()]
    assert held == names[: names.index(f"{convolutions[count]}.weight")]


def test_positions_and_class_token_of_a_vit_go_with_its_first_layers():
    backbone = build_backbone("v3/vit_tiny", image_size=32).module
    freeze_first_layers_(backbone, 0.5, "v3/vit_tiny")
    held = frozen(backbone)
    assert {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= set(held)
    assert not any(name.startswith(("blocks.11.", "norm.")) for name in held)


def test_a_module_without_layers_is_refused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(nn.init.ones_(nn.Parameter().new_empty(3)))

    with pytest.raises(ArchitectureError, match="frozen_layers=0.5 of Scale, which has no convolutions or linear"):
        freeze_first_layers_(Scale(), 0.5, "Scale")
    assert freeze_first_layers_(Scale(), 0.0, "Scale") == 0
