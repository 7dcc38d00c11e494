"""MoCo v3's runs for other tools: the authors' layout there and back, timm's ViT with its own number of heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import moco
from moco.errors import ArchitectureError

timm = pytest.importorskip("timm")

SMALL = {"hidden_dim": 16, "embedding_dim": 8, "batch_size": 4, "steps": 2, "threads": 1, "layout": "contiguous"}


def run(folder, **options) -> moco.Run:
    images = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    return moco.pretrain(images, out=folder / "run", quiet=True, **{"recipe": "v2", **SMALL, **options})


def encoders(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize(
    ("options", "arch", "imported"),
    [
        ({"recipe": "v3", "backbone": "resnet18", "image_size": 72}, "resnet18", "torchvision/resnet18"),
        ({"recipe": "v3-vit", "image_size": 32}, "vit_small", "timm/vit_small_patch16_224"),
        (
            {"recipe": "v3-vit", "image_size": 32, "backbone": "v3/vit_conv_small", "freeze_patch_projection": False},
            "vit_conv_small",
            "v3/vit_conv_small",
        ),
    ],
)
def test_the_authors_layout_there_and_back(tmp_path, options, arch, imported):
    made = run(tmp_path, **options)
    exported = moco.export_weights(made.path, format="moco", out=tmp_path / "x.pth.tar")
    content = torch.load(exported.path, weights_only=True)
    assert content["arch"] == arch
    state, own = content["state_dict"], encoders(made.path / "checkpoints" / "last.pt")
    assert len(state) == len(own)
    assert {".".join(name.split(".")[:2]) for name in state} == {
        f"module.{part}" for part in ("base_encoder", "momentum_encoder", "predictor")
    }
    head = "fc" if arch == "resnet18" else "head"
    for ours, theirs in (("encoder_q", "base_encoder"), ("encoder_k", "momentum_encoder")):
        assert torch.equal(state[f"module.{theirs}.{head}.0.weight"], own[f"{ours}.head.0.weight"])
    assert torch.equal(state["module.predictor.3.weight"], own["predictor.3.weight"])
    back = moco.import_weights(exported.path, out=tmp_path / "back")
    assert (back.kind, back.architecture) == ("MoCo v3 of the authors", imported)
    assert set(back.others) == {"momentum_encoder", "predictor"}
    assert (back.image_size, back.preprocessing_source) == (options["image_size"], exported.path.name)
    images = torch.randn(2, 3, back.image_size, back.image_size)
    again, first = moco.load(tmp_path / "back"), moco.load(made.path)
    if arch != "resnet18":
        assert again.backbone.blocks[0].attn.num_heads == 12
    else:
        images = torch.randn(2, 3, 72, 72)
    assert torch.equal(again(images), first(images))


def test_timm_gets_the_heads_and_the_patch(tmp_path):
    made = run(tmp_path, recipe="v3-vit", backbone="v3/vit_tiny_patch8", image_size=32)
    exported = moco.export_weights(made.path, format="timm", out=tmp_path / "x")
    model = timm.create_model(f"local-dir:{exported.path}", pretrained=True).eval()
    assert model.blocks[0].attn.num_heads == 6
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), moco.load(made.path)(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(ArchitectureError, match="no ViT-tiny"):
        moco.export_weights(made.path, format="moco")


def test_what_the_authors_have_not_is_refused(tmp_path):
    made = run(tmp_path, recipe="v3", backbone="resnet_tiny", image_size=16)
    with pytest.raises(ArchitectureError, match="v3 layout is for ResNets and for v3/vit"):
        moco.export_weights(made.path, format="moco")
