"""Files made by the other projects themselves: the imported backbone gives their features, value by value."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import moco
from moco.errors import ArchitectureError
from tests.export import foreign_files as files
from tests.export.models import trained, written

SMALL = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LARGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def same(run, expected, images):
    with torch.inference_mode():
        torch.testing.assert_close(moco.load(run)(images), expected, rtol=1e-5, atol=1e-5)


def lightly_backbone(name="resnet-18", **options) -> nn.Module:
    """As lightly's examples build it: its children without the classifier, then pooling; no ReLU after the stem."""
    models = pytest.importorskip("lightly.models", reason="lightly is in the bench extra only")
    children = list(models.ResNetGenerator(name, 1, **options).children())
    return files.lively(nn.Sequential(*children[:-1], nn.AdaptiveAvgPool2d(1)))


class LightlyMoCo(nn.Module):
    """lightly's MoCo example (SimSiam and BYOL have a prediction head, too), with the heads that lightly has."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        from lightly.models.modules import heads

        self.backbone, self.backbone_momentum = backbone, lightly_backbone()
        self.projection_head = heads.MoCoProjectionHead(width, width, 128)
        self.prediction_head = heads.BYOLPredictionHead(128, 512, 128)


@pytest.mark.parametrize(("name", "splits"), [("resnet-18", 0), ("resnet-18", 4), ("resnet-50", 0)])
def test_lightlys_generator_without_its_relu(tmp_path, name, splits):
    backbone = lightly_backbone(name, num_splits=splits)
    width = backbone(SMALL).shape[1]
    content = files.lightning(LightlyMoCo(backbone, width).state_dict())
    result = moco.import_weights(files.saved(content, tmp_path / "a.ckpt"), out=tmp_path / "run")
    assert (result.kind, result.stem, result.image_size) == ("lightly", "3x3-stride1-linear", 32)
    with torch.inference_mode():
        same(tmp_path / "run", backbone(SMALL).flatten(1), SMALL)
    for wrong in ("3x3-stride1", "3x3-stride2"):
        with pytest.raises(ArchitectureError, match="stem"):
            moco.import_weights(tmp_path / "a.ckpt", out=tmp_path / "other", stem=wrong)
        named = f"torchvision/{name.replace('-', '')}"
        with pytest.raises(ArchitectureError, match="stem"):
            moco.import_weights(tmp_path / "a.ckpt", out=tmp_path / "other", stem=wrong, architecture=named)


def test_statistics_of_split_batchnorm_in_training_are_averaged_as_lightly_does(tmp_path):
    backbone = lightly_backbone(num_splits=2).train()
    files.set_statistics(backbone)
    file = files.saved({"state_dict": files.prefixed(backbone.state_dict(), "backbone.")}, tmp_path / "a.ckpt")
    assert backbone[1].running_mean[0] != backbone[1].running_mean[64], "the parts differ while it trains"
    moco.import_weights(file, out=tmp_path / "run")
    with torch.inference_mode():
        same(tmp_path / "run", backbone.eval()(SMALL).flatten(1), SMALL)


def test_lightlys_generator_as_a_module_has_its_relu(tmp_path):
    models = pytest.importorskip("lightly.models", reason="lightly is in the bench extra only")
    model = files.lively(models.ResNetGenerator("resnet-18"))
    result = moco.import_weights(files.saved(model.state_dict(), tmp_path / "a.pth"), out=tmp_path / "run")
    assert (result.stem, result.head) == ("3x3-stride1", ("linear.weight", "linear.bias"))
    model.linear = nn.Identity()
    with torch.inference_mode():
        same(tmp_path / "run", model(SMALL), SMALL)


@pytest.mark.parametrize("left_out", [(2,), (3,), (2, 3)])
def test_a_sequence_without_relu_or_pooling_is_refused(tmp_path, left_out):
    children = [child for number, child in enumerate(files.resnet().children()) if number not in left_out]
    file = files.saved(
        {"state_dict": files.prefixed(nn.Sequential(*children[:-1]).state_dict(), "backbone.")}, tmp_path / "a"
    )
    with pytest.raises(ArchitectureError, match="from bn1 to layer1"):
        moco.import_weights(file, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("layer", "depths", "classes"), [("basic", (2, 2, 2, 2), True), ("bottleneck", (3, 4, 6, 3), False)]
)
def test_transformers_resnets(tmp_path, layer, depths, classes):
    transformers = pytest.importorskip("transformers")
    widths = [64, 128, 256, 512] if layer == "basic" else [256, 512, 1024, 2048]
    config = transformers.ResNetConfig(depths=list(depths), hidden_sizes=widths, layer_type=layer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = transformers.ResNetForImageClassification if classes else transformers.ResNetModel
        model = files.lively(kind(config))
    model.save_pretrained(tmp_path / "hub")
    processor = transformers.ConvNextImageProcessor(
        size={"shortest_edge": 64}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    processor.save_pretrained(tmp_path / "hub")
    result = moco.import_weights(tmp_path / "hub", out=tmp_path / "run")
    assert (result.kind, result.preprocessing_source) == ("transformers", "preprocessor_config.json")
    preprocess = moco.load(tmp_path / "run").preprocess
    assert (preprocess.size, preprocess.mean, preprocess.std) == (64, (0.5,) * 3, (0.25,) * 3)
    with torch.inference_mode():
        same(tmp_path / "run", (model.resnet if classes else model)(LARGE).pooler_output.flatten(1), LARGE)


@pytest.mark.parametrize("key", ["downsample_in_bottleneck", "downsample_in_first_stage", ""])
def test_transformers_resnets_of_other_strides_are_refused(tmp_path, key):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(**({key: True} if key else {}))
    transformers.ResNetModel(config).save_pretrained(tmp_path / "hub")
    if not key:
        (tmp_path / "hub" / "config.json").unlink()
    with pytest.raises(ArchitectureError, match=key or "config.json"):
        moco.import_weights(tmp_path / "hub", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["resnet26", "resnet18", "vit_tiny_patch16_224", "vit_small_patch16_224", "convnext_atto"]
)
def test_timms_folder_keeps_architecture_heads_and_mean(tmp_path, name):
    model = timms(name, tmp_path / "hub")
    result = moco.import_weights(tmp_path / "hub", out=tmp_path / "run")
    assert (result.preprocessing_source, result.num_heads) == ("config.json", None)
    preprocess = moco.load(result.path).preprocess
    assert (preprocess.size, preprocess.mean) == (64, (0.5, 0.4, 0.3))
    with torch.inference_mode():
        same(result.path, model(LARGE), LARGE)


def timms(name, folder):
    """timm's model without its classifier; `folder` gets what timm writes of it with one."""
    timm = pytest.importorskip("timm")
    options = {"img_size": 64} if name.startswith("vit") else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = files.lively(timm.create_model(name, num_classes=5, **options))
    model.pretrained_cfg |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "input_size": (3, 64, 64)}
    timm.models.save_for_hf(model, folder, model_args=options, safe_serialization="both")
    model.reset_classifier(0)
    return model


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_a_file_of_timms_folder_is_as_good_and_other_arguments_are_refused(tmp_path, name):
    model = timms(name, tmp_path / "hub")
    for number, file in enumerate(("model.safetensors", "pytorch_model.bin")):
        result = moco.import_weights(tmp_path / "hub" / file, out=tmp_path / f"run{number}")
        assert (result.preprocessing_source, result.num_heads) == ("config.json", None)
        with torch.inference_mode():
            same(result.path, model(LARGE), LARGE)
    stated = moco.import_weights(tmp_path / "hub", out=tmp_path / "stated", normalization="cifar")
    assert stated.preprocessing_source == "normalization"
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    for key, value in (("act_layer", "gelu"), ("global_pool", "max"), ("in_chans", 1)):
        arguments = {**config.get("model_args", {}), key: value}
        (tmp_path / "hub" / "config.json").write_text(json.dumps({**config, "model_args": arguments}))
        with pytest.raises(ArchitectureError, match=key):
            moco.import_weights(tmp_path / "hub", out=tmp_path / "other")


def test_a_mean_inside_a_file_is_kept(tmp_path):
    import argparse

    state = files.resnet().state_dict()
    for number, beside in enumerate(
        (
            {"pretrained_cfg": {"mean": (0.5, 0.5, 0.5), "std": (0.3, 0.3, 0.3), "input_size": (3, 96, 96)}},
            {"args": argparse.Namespace(mean=[0.5] * 3, std=[0.3] * 3, img_size=96)},
        )
    ):
        file = files.saved({"state_dict": state, **beside}, tmp_path / f"{number}.pth")
        result = moco.import_weights(file, out=tmp_path / f"run{number}")
        assert (result.image_size, result.preprocessing["mean"]) == (96, [0.5, 0.5, 0.5])
        assert result.preprocessing_source == file.name
        assert moco.import_weights(file, out=tmp_path / f"s{number}", image_size=64).image_size == 64


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("resnet18", form) for form in ("torchvision", "timm", "huggingface", "detectron2")),
        ("resnet50", "huggingface"),  # these two have names of their own for bottlenecks
        ("resnet50", "detectron2"),
    ],
)
def test_our_exports_come_back(tmp_path, form, name):
    pytest.importorskip({"timm": "timm", "huggingface": "transformers"}.get(form, "torch"))
    model = other_mean(trained(name, image_size=96, stem="standard"))
    exported = moco.export_weights(written(tmp_path / "run", model), format=form, out=tmp_path / "x")
    comes_back(model, exported.path, tmp_path / "back")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mobilenet_v3_small", "torchvision"),
        ("vit_b_16", "torchvision"),
        ("timm/vit_tiny_patch16_224", "timm"),
        ("v3/vit_tiny_patch8", "timm"),
        ("v3/vit_small", "timm"),
        ("timm/convnext_atto", "timm"),
    ],
)
def test_our_exports_of_other_networks_come_back(tmp_path, name, form):
    pytest.importorskip("timm")
    model = other_mean(trained(name, image_size=96))
    exported = moco.export_weights(written(tmp_path / "run", model), format=form, out=tmp_path / "x")
    comes_back(model, exported.path, tmp_path / "back")


def other_mean(model):
    from moco.data.preprocess import Preprocessing

    model.preprocess = Preprocessing(80, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    if "vit" in model.architecture:
        model.preprocess = Preprocessing(96, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return model


def comes_back(model, path, run):
    result = moco.import_weights(path, out=run)
    assert result.preprocessing_source is not None
    back, images = moco.load(run), torch.randn(2, 3, 96, 96)
    assert back.preprocess.size == model.preprocess.size
    for name in ("mean", "std"):
        assert getattr(back.preprocess, name) == pytest.approx(getattr(model.preprocess, name), abs=1e-7)
    with torch.inference_mode():
        torch.testing.assert_close(back(images), model(images), rtol=1e-5, atol=1e-5)


def test_an_onnx_graph_names_the_run(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"graph")
    with pytest.raises(moco.errors.RunError, match=r"backbone\.safetensors"):
        moco.import_weights(tmp_path / "a.onnx", out=tmp_path / "run")
