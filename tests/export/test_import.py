"""Other projects' checkpoints: recognised, the same function afterwards, and refused where it cannot be sure."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import moco
from moco.data.views import CIFAR, IMAGENET
from moco.errors import ArchitectureError
from tests.export import foreign_files as files

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def same(run, expected, images=IMAGES):
    """Whether the imported backbone gives these features."""
    with torch.inference_mode():
        torch.testing.assert_close(moco.load(run)(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize("cleaned", [True, False])
def test_the_authors_v2(tmp_path, module, cleaned):
    model = files.resnet()
    expected = files.features(model, IMAGES)
    content = files.v2(model, module=module)
    if cleaned:  # the released files have neither queue nor key encoder
        content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "encoder_q" in k}
    result = moco.import_weights(files.saved(content, tmp_path / "v2.pth.tar"), out=tmp_path / "run")
    assert result.kind == "MoCo v1/v2 of the authors"
    assert result.head == ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")
    assert result.others == (() if cleaned else ("encoder_k", "queue", "queue_ptr"))
    assert (result.architecture, result.stem, result.image_size) == ("torchvision/resnet18", "standard", 224)
    same(tmp_path / "run", expected)
    preprocess = moco.load(tmp_path / "run").preprocess
    assert (preprocess.size, preprocess.mean, preprocess.std) == (224, *IMAGENET)


def test_v1_has_a_linear_head(tmp_path):
    model = files.resnet(classes=128)
    content = {"arch": "resnet18", "state_dict": files.prefixed(model.state_dict(), "module.encoder_q.")}
    result = moco.import_weights(files.saved(content, tmp_path / "v1.pth"), out=tmp_path / "run")
    assert result.head == ("fc.weight", "fc.bias")
    same(tmp_path / "run", files.features(model, IMAGES))


def test_the_parameter_counts_are_those_of_the_authors_models(tmp_path):
    with torch.device("meta"):
        models = {
            "v2": files.v2(torchvision.models.resnet50(), arch="resnet50"),
            "v3": files.v3(torchvision.models.resnet50(), arch="resnet50"),
        }
    from moco.commands.import_weights import _is_parameter

    counts = {
        name: sum(tensor.numel() for key, tensor in content["state_dict"].items() if _is_parameter(key))
        for name, content in models.items()
    }
    assert counts == {"v2": 55_933_312, "v3": 68_012_160}


def vit(name, **options):
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=0, **options).eval()


def test_the_authors_vits_have_the_published_number_of_parameters():
    from moco.commands.import_weights import _is_parameter

    for name, arch, count in (("small", "vit_small", 84_266_752), ("base", "vit_base", 215_678_464)):
        with torch.device("meta"):
            content = files.v3(vit(f"vit_{name}_patch16_224", num_heads=12), arch=arch)
        assert sum(t.numel() for key, t in content["state_dict"].items() if _is_parameter(key)) == count


@pytest.mark.parametrize("module", [True, False])
def test_the_authors_v3_resnet(tmp_path, module):
    model = files.resnet()
    expected = files.features(model, IMAGES)
    content = files.v3(model, arch="resnet18", hidden=64, module=module)
    result = moco.import_weights(files.saved(content, tmp_path / "v3.pth"), out=tmp_path / "run")
    assert result.kind == "MoCo v3 of the authors"
    assert result.others == ("momentum_encoder", "predictor")
    assert {name.split(".")[1] for name in result.head} == {"0", "1", "3", "4"}
    same(tmp_path / "run", expected)


def test_the_authors_vit_small_gets_its_twelve_heads(tmp_path):
    model = vit("vit_small_patch16_224", num_heads=12, img_size=64)
    with torch.inference_mode():
        expected = model(IMAGES)
    six = vit("vit_small_patch16_224", img_size=64)
    six.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert not torch.allclose(six(IMAGES), expected, atol=1e-3), "the shapes fit, the function is another"
    file = files.saved(files.v3(model, arch="vit_small", hidden=32), tmp_path / "v3.pth.tar")
    result = moco.import_weights(file, out=tmp_path / "run")
    assert (result.num_heads, result.image_size) == (12, 64)
    assert {name.split(".")[1] for name in result.head} == {"0", "1", "3", "4", "6", "7"}
    assert "12 heads" in str(result)
    same(tmp_path / "run", expected)
    with pytest.raises(ArchitectureError, match="num_heads=6 for MoCo v3's own file"):
        moco.import_weights(file, out=tmp_path / "other", num_heads=6)


def test_a_vit_small_of_unknown_origin_is_never_guessed(tmp_path):
    model = vit("vit_small_patch16_224", num_heads=12, img_size=64)
    with torch.inference_mode():
        expected = model(IMAGES)
    for name, state in {
        "plain": model.state_dict(),
        "solo": files.lightning(
            {**files.prefixed(model.state_dict(), "backbone."), "projector.0.weight": torch.ones(2)}
        ),
    }.items():
        file = files.saved(state, tmp_path / f"{name}.pth")
        with pytest.raises(ArchitectureError, match=r"--num-heads 12 for MoCo v3's, --num-heads 6 for timm's"):
            moco.import_weights(file, out=tmp_path / name)
        assert not (tmp_path / name).exists()
        moco.import_weights(file, out=tmp_path / name, num_heads=12)
        same(tmp_path / name, expected)
    six = moco.import_weights(tmp_path / "plain.pth", out=tmp_path / "six", num_heads=6)
    assert six.num_heads is None, "timm's own number needs no note"


def test_other_vits_have_one_number_of_heads(tmp_path):
    model = vit("vit_tiny_patch16_224", img_size=64)
    with torch.inference_mode():
        expected = model(IMAGES)
    moco.import_weights(files.saved({"model": model.state_dict()}, tmp_path / "t.pth"), out=tmp_path / "run")
    same(tmp_path / "run", expected)


def test_a_convolutional_vit_stem_of_another_size_is_refused(tmp_path):
    state = {"base_encoder.cls_token": torch.zeros(1, 1, 384), "base_encoder.patch_embed.proj.0.weight": torch.ones(2)}
    with pytest.raises(ArchitectureError, match="a ViT of width 384 whose patches are not projected as in MoCo v3"):
        moco.import_weights(files.saved({"state_dict": state}, tmp_path / "c.pth"), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(files.lightly, "lightly"), (files.solo_learn, "solo-learn"), (files.vissl, "VISSL")],
)
def test_other_libraries(tmp_path, make, kind):
    model = files.resnet()
    expected = files.features(model, IMAGES)
    result = moco.import_weights(files.saved(make(model), tmp_path / "a.ckpt"), out=tmp_path / "run")
    assert result.kind == kind
    same(tmp_path / "run", expected)


@pytest.mark.parametrize("make", [files.lightly, files.solo_learn])
def test_their_cifar_stems_have_stride_1(tmp_path, make):
    model = files.resnet(small=True)
    images = IMAGES[..., :32, :32]
    expected = files.features(model, images)
    if make is files.lightly:  # its own ResNet has no max-pooling among its children, and calls the shortcut so
        del model.maxpool, model.relu
        content = make(model)
        content["state_dict"] = {k.replace("downsample", "shortcut"): v for k, v in content["state_dict"].items()}
    else:
        content = make(model)
    result = moco.import_weights(files.saved(content, tmp_path / "a.ckpt"), out=tmp_path / "run")
    assert (result.stem, result.image_size) == ("3x3-stride1", 32)
    assert moco.load(tmp_path / "run").preprocess.mean == CIFAR[0]
    same(tmp_path / "run", expected, images)


def test_the_authors_cifar_demonstration(tmp_path):
    model = files.resnet(small=True, classes=128)
    images = IMAGES[..., :32, :32]
    expected = files.features(model, images)
    del model.maxpool
    children = list(model.children())
    net = nn.Sequential(*children[:-1], nn.Flatten(1), children[-1])
    content = {"epoch": 200, "state_dict": files.prefixed(net.state_dict(), "encoder_q.net.")}
    result = moco.import_weights(files.saved(content, tmp_path / "demo.pth"), out=tmp_path / "run")
    assert result.head == ("fc.weight", "fc.bias")
    same(tmp_path / "run", expected, images)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2"]
)
def test_resnets_are_told_from_their_shapes(tmp_path, name):
    with torch.device("meta"):
        shapes = torchvision.models.get_model(name, weights=None).state_dict()
    tensors = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    result = moco.import_weights(files.saved(tensors, tmp_path / "a.pth"), out=tmp_path / "run", image_size=32)
    assert result.architecture == f"torchvision/{name}"


def test_plain_files_of_torchvision_timm_and_safetensors(tmp_path):
    model = files.resnet()
    expected = files.features(model, IMAGES)
    files.saved(model.state_dict(), tmp_path / "a.pth")
    files.saved({"state_dict": files.prefixed(model.state_dict(), "module.")}, tmp_path / "b.pth")
    save_file(model.state_dict(), tmp_path / "c.safetensors")
    for name in ("a.pth", "b.pth", "c.safetensors"):
        result = moco.import_weights(tmp_path / name, out=tmp_path / f"run-{name}")
        assert result.kind == "a plain state dict"
        same(tmp_path / f"run-{name}", expected)


def test_any_architecture_by_its_name(tmp_path):
    model = torchvision.models.mobilenet_v3_small(weights=None).eval()
    file = files.saved(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(ArchitectureError, match="none of the known layouts"):
        moco.import_weights(file, out=tmp_path / "run")
    with pytest.raises(ArchitectureError, match=r"does not fit; \d+ missing: features"):
        moco.import_weights(file, out=tmp_path / "run", architecture="torchvision/mobilenet_v3_large")
    result = moco.import_weights(file, out=tmp_path / "run", architecture="torchvision/mobilenet_v3_small")
    assert set(result.head) == {"classifier.3.weight", "classifier.3.bias"}


def test_a_stride_that_cannot_be_seen_is_asked_for(tmp_path):
    model = files.resnet(small=True)
    file = files.saved(model.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ArchitectureError, match="its stride cannot be seen, state it"):
        moco.import_weights(file, out=tmp_path / "run")
    images = IMAGES[..., :32, :32]
    moco.import_weights(file, out=tmp_path / "run", stem="3x3-stride1", normalization="imagenet")
    same(tmp_path / "run", files.features(model, images), images)
    assert moco.load(tmp_path / "run").preprocess.mean == IMAGENET[0]
