"""Other projects' checkpoints: recognised, the same function afterwards, and refused where it cannot be sure."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import moco
from moco.errors import ArchitectureError
from moco.normalization import CIFAR, IMAGENET
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
    from moco.commands.import_weights import count_parameters

    counts = {name: count_parameters(content["state_dict"]) for name, content in models.items()}
    assert counts == {"v2": 55_933_312, "v3": 68_012_160}


def vit(name, **options):
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=0, **options).eval()


def test_the_authors_vits_have_the_published_number_of_parameters():
    from moco.commands.import_weights import count_parameters

    for name, arch, count in (("small", "vit_small", 84_266_752), ("base", "vit_base", 215_678_464)):
        with torch.device("meta"):
            content = files.v3(vit(f"vit_{name}_patch16_224", num_heads=12), arch=arch)
        assert count_parameters(content["state_dict"]) == count


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
    with pytest.raises(ArchitectureError, match="a ViT of width 384"):
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


def test_solo_learns_cifar_stem_has_a_padding_of_two(tmp_path):
    model, images = files.resnet(small=True, padding=2), IMAGES[..., :32, :32]
    expected = files.features(model, images)
    result = moco.import_weights(files.saved(files.solo_learn(model), tmp_path / "a.ckpt"), out=tmp_path / "run")
    assert (result.stem, result.image_size) == ("3x3-stride1-padding2", 32)
    assert moco.load(tmp_path / "run").preprocess.mean == CIFAR[0]
    same(tmp_path / "run", expected, images)
    again = moco.load(tmp_path / "run")
    model.conv1.padding = (1, 1)
    with torch.inference_mode():
        assert not torch.allclose(model(images), again(images), atol=1e-3), "another function under the same shapes"


@pytest.mark.parametrize("make", [files.lightly, files.simsiam, files.byol_pytorch, lambda model: model.state_dict()])
def test_a_small_stem_that_cannot_be_seen_is_never_guessed(tmp_path, make):
    model, images = files.resnet(small=True), IMAGES[..., :32, :32]
    expected = files.features(model, images)
    file = files.saved(make(model), tmp_path / "a.ckpt")
    with pytest.raises(ArchitectureError, match="--stem"):
        moco.import_weights(file, out=tmp_path / "run")
    result = moco.import_weights(file, out=tmp_path / "run", stem="3x3-stride1", normalization="imagenet")
    assert (result.stem, result.preprocessing_source) == ("3x3-stride1", "normalization")
    same(tmp_path / "run", expected, images)
    assert moco.load(tmp_path / "run").preprocess.mean == IMAGENET[0]


@pytest.mark.parametrize(
    ("make", "kind"), [(files.simsiam, "SimSiam of the authors"), (files.byol_pytorch, "BYOL of byol-pytorch")]
)
def test_simsiam_and_byol(tmp_path, make, kind):
    model = files.resnet()
    expected = files.features(model, IMAGES)
    result = moco.import_weights(files.saved(make(model), tmp_path / "a.pth"), out=tmp_path / "run")
    assert (result.kind, result.stem) == (kind, "standard")
    same(tmp_path / "run", expected)


@pytest.mark.parametrize("version", [0, 1])
def test_mmselfsup(tmp_path, version):
    model = files.resnet()
    expected = files.features(model, IMAGES)
    file = files.saved(files.mmselfsup(model, version=version), tmp_path / "a.pth")
    assert moco.import_weights(file, out=tmp_path / "run").kind == "mmselfsup"
    same(tmp_path / "run", expected)
    other = files.saved(files.mmselfsup(model, version=version, style="caffe"), tmp_path / "b.pth")
    for named in (None, "torchvision/resnet18"):
        with pytest.raises(ArchitectureError, match="caffe"):
            moco.import_weights(other, out=tmp_path / "other", architecture=named)


def test_dinos_teacher_is_taken(tmp_path):
    teacher, student = files.resnet(seed=1), files.resnet(seed=2)
    expected = files.features(teacher, IMAGES)
    teacher.fc, student.fc = nn.Identity(), nn.Identity()
    file = files.saved(files.dino(teacher, student, wrapped=True), tmp_path / "a.pth")
    assert moco.import_weights(file, out=tmp_path / "run").kind == "DINO of the authors (teacher)"
    same(tmp_path / "run", expected)


@pytest.mark.parametrize(("name", "heads"), [("vit_tiny", 3), ("vit_small", 6)])
def test_dinos_vits_have_its_heads(tmp_path, name, heads):
    model = vit(f"{name}_patch16_224", img_size=64)  # the authors' ViT is timm's of that time, with these heads
    file = files.saved(files.dino(model, model, wrapped=False), tmp_path / "a.pth")
    moco.import_weights(file, out=tmp_path / "run")
    assert moco.load(tmp_path / "run").backbone.blocks[0].attn.num_heads == heads
    with torch.inference_mode():
        same(tmp_path / "run", authors_vit(model, IMAGES, heads))


def authors_vit(model, images, heads):
    """The DINO authors' ViT (their vision_transformer.py) from its published description, on these tensors."""
    from torch.nn import functional

    tensors, width = model.state_dict(), model.embed_dim

    def norm(x, name):
        return functional.layer_norm(x, (width,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)

    def linear(x, name):
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    projection = (tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"])
    x = functional.conv2d(images, *projection, stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([tensors["cls_token"].expand(len(x), -1, -1), x], dim=1) + tensors["pos_embed"]
    for number in range(12):
        block, (batch, length, _) = f"blocks.{number}", x.shape
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(batch, length, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5).softmax(dim=-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 0]


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


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnext50_32x4d", "wide_resnet50_2"])
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
