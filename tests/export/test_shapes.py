"""Networks of images that are not square go to every format that takes them and come back."""

from __future__ import annotations

import json

import pytest
import torch

import moco
from moco.encoder import build_backbone
from moco.errors import ArchitectureError
from moco.export.formats import FORMATS
from tests.export.models import trained, written

SIZE = (72, 88)


@pytest.fixture(scope="module")
def lying(tmp_path_factory):
    return written(tmp_path_factory.mktemp("lying") / "run", trained("resnet18", image_size=SIZE))


def test_loading_gives_the_same_network_and_preparation(lying):
    model = moco.load(lying)
    assert model.image_size == model.preprocess.size == SIZE
    assert model.digest() == trained("resnet18", image_size=SIZE).digest()
    assert model.preprocess(torch.zeros(3, 100, 90, dtype=torch.uint8)).shape == (3, *SIZE)


@pytest.mark.parametrize("name", ["torchvision", "timm", "huggingface", "onnx", "detectron2"])
def test_every_format_gives_the_same_features_of_the_same_files(lying, tmp_path, name):
    for package in FORMATS[name].needs:
        pytest.importorskip(package)
    exported = moco.export_weights(lying, format=name, out=tmp_path / f"x{FORMATS[name].suffix}")  # it is proven there
    assert exported.difference < 1e-4 * exported.largest_feature
    assert (exported.pixels is None) == (name == "detectron2")
    if name == "onnx":
        return
    back = moco.import_weights(exported.path, out=tmp_path / "back")
    assert "centre at 72x88 px" in str(back)
    assert moco.load(back.path).preprocess == moco.load(lying).preprocess


@pytest.mark.parametrize("size", [(16, 64), (24, 40)])
def test_a_vit_goes_to_timm_and_back_with_its_grid(tmp_path, size):
    pytest.importorskip("timm")
    run = written(
        tmp_path / "run",
        trained("timm/vit_tiny_patch16_224" if size[0] == 16 else "v3/vit_tiny_patch8", image_size=size),
    )
    exported = moco.export_weights(run, format="timm", out=tmp_path / "x")
    back = moco.import_weights(exported.path, out=tmp_path / "back")
    assert (back.image_size, moco.load(back.path).image_size) == (size, size)
    assert moco.load(back.path).digest() == moco.load(run).digest()


def test_a_grid_that_no_square_has_is_asked_for(tmp_path):
    pytest.importorskip("timm")
    model = trained("timm/vit_tiny_patch16_224", image_size=(32, 48))
    torch.save({"state_dict": model.backbone.state_dict()}, tmp_path / "vit.pth")
    with pytest.raises(ArchitectureError, match="a ViT with 6 positions of 16 px, which no square has: state the size"):
        moco.import_weights(tmp_path / "vit.pth", out=tmp_path / "run")
    back = moco.import_weights(tmp_path / "vit.pth", out=tmp_path / "run", image_size="32x48")
    assert json.loads((back.path / "import.json").read_text())["image_size"] == [32, 48]
    assert moco.load(back.path).digest() == model.digest()


def test_networks_that_are_square_only_say_so():
    with pytest.raises(ArchitectureError, match="vit_b_32 at 64x96 px: torchvision's ViTs are square; use a square"):
        build_backbone("torchvision/vit_b_32", image_size=(64, 96))
    pytest.importorskip("timm")
    with pytest.raises(ArchitectureError, match="at 64x90 px: a side of 90 must be a multiple of the patch"):
        build_backbone("v3/vit_small", image_size=(64, 90))


@pytest.mark.parametrize("name", ["v3/vit_tiny_patch8", "v3/vit_conv_tiny_patch8", "timm/vit_tiny_patch16_224"])
def test_vits_take_images_of_their_size_and_see_where_things_are(name):
    pytest.importorskip("timm")
    built = build_backbone(name, image_size=(16, 48))
    module = built.module.eval()
    image = torch.zeros(1, 3, 16, 48)
    image[..., :16] = 1.0
    with torch.no_grad():
        assert module(image).shape == (1, built.feature_dim)
        assert not torch.allclose(module(image), module(image.flip(3)), atol=1e-3)


@pytest.mark.parametrize(
    ("size", "stem"), [((64, 96), "3x3-stride2"), ((96, 32), "3x3-stride1"), ((65, 96), "standard")]
)
def test_the_shorter_side_chooses_the_stem(size, stem):
    assert build_backbone("resnet18", image_size=size).stem == stem
