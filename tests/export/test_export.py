"""An export counts once its own target gives our features; anything else leaves no file."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import torchvision

import moco
from moco.cli import main
from moco.commands import export as command
from moco.contrast import Queue
from moco.encoder import build_encoder
from moco.errors import ArchitectureError, ConfigError, RunError
from moco.export.formats import FORMATS
from moco.export.proof import probe_files, prove
from moco.export.resnet_names import RESNETS, to_detectron2, to_huggingface
from moco.export.subject import Subject
from moco.normalization import IMAGENET
from tests.export.models import trained, written

STANDARD = ("torchvision", "timm", "huggingface", "safetensors", "onnx", "detectron2")


def needed(name):
    for package in FORMATS[name].needs:
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A real run of two steps, with its checkpoint."""
    folder = tmp_path_factory.mktemp("moco")
    images = np.random.default_rng(0).integers(0, 256, (12, 72, 72, 3), dtype=np.uint8)
    options = {"backbone": "resnet18", "image_size": 72, "batch_size": 4, "dictionary_size": 10, "embedding_dim": 8}
    options |= {"steps": 2, "threads": 1, "workers": 1, "precision": "fp32"}
    return moco.pretrain(images, out=folder / "run", recipe="v2", quiet=True, **options).path


@pytest.mark.parametrize("name", STANDARD)
def test_the_target_gives_our_features(exported, name):
    result = exported(name)
    assert result.largest_feature > 0.1
    assert result.difference <= 1e-5 * result.largest_feature
    assert (result.pixels is None) is (name == "detectron2")
    assert not result.pixels
    assert result.path.exists()
    assert list(result.path.parent.iterdir()) == [result.path]


@pytest.mark.parametrize("name", [*STANDARD, "moco"])
def test_a_wrong_tensor_is_found_and_nothing_is_left(pretrained, tmp_path, monkeypatch, name):
    needed(name)
    module = FORMATS[name].module
    write = module.write

    def sabotaged(subject, path):
        other = moco.load(pretrained)
        with torch.no_grad():
            other.backbone.layer3[1].bn2.weight[7] += 0.05
        state = {k: v.clone() for k, v in subject.checkpoint.items()} if subject.checkpoint else None
        if state:
            state["encoder_q.backbone.layer3.1.bn2.weight"][7] += 0.05
        write(Subject(other, state), path)

    monkeypatch.setattr(module, "write", sabotaged)
    with pytest.raises(RunError, match=name):
        moco.export_weights(pretrained, format=name, out=tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["torchvision", "timm", "huggingface", "safetensors"])
@pytest.mark.parametrize("change", [{"mean": (0.4851, 0.456, 0.406)}, {"size": 73}])
def test_another_preprocessing_is_found(resnet, tmp_path, monkeypatch, name, change):
    needed(name)
    write, other = FORMATS[name].module.write, moco.load(resnet)
    other.preprocess = dataclasses.replace(other.preprocess, **change)
    monkeypatch.setattr(FORMATS[name].module, "write", lambda subject, path: write(Subject(other), path))
    with pytest.raises(RunError, match="preprocessed images"):
        moco.export_weights(resnet, format=name, out=tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_module_is_exported_with_its_preprocessing(tmp_path):
    needed("onnx")
    module, preprocessing = trained().backbone, moco.Preprocessing(16, *IMAGENET)
    with pytest.raises(ConfigError, match="preprocessing"):
        moco.export_weights(module, format="onnx", out=tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="out"):
        moco.export_weights(module, format="onnx", preprocessing=preprocessing)
    result = moco.export_weights(module, format="onnx", out=tmp_path / "x.onnx", preprocessing=preprocessing)
    assert result.difference <= 1e-5 * result.largest_feature
    with pytest.raises(ArchitectureError, match="onnx"):
        moco.export_weights(module, out=tmp_path / "x", preprocessing=preprocessing)


def test_a_run_and_a_loaded_backbone_are_exported(resnet, tmp_path):
    for given in (moco.Run(resnet), moco.load(resnet)):
        result = moco.export_weights(given, format="torchvision", out=tmp_path / "x.pth", overwrite=True)
        assert result.difference == 0


def test_torchvision_loads_it_as_its_users_do(resnet, exported):
    content = torch.load(exported("torchvision").path, weights_only=True)
    model = torchvision.models.get_model(content["arch"], num_classes=5)
    missing, unexpected = model.load_state_dict(content["state_dict"], strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    assert content["preprocessing"] == moco.load(resnet).preprocess.as_dict()


def test_onnx_takes_any_batch_and_says_what_it_is(resnet, exported):
    path = exported("onnx").path
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = moco.load(resnet)
    for count in (1, 2, 7):
        images = torch.randn(count, 3, 72, 72)
        got = session.run(["features"], {"images": images.numpy()})[0]
        np.testing.assert_allclose(got, model(images).detach().numpy(), rtol=1e-3, atol=1e-4)
    about = json.loads(session.get_modelmeta().custom_metadata_map["moco"])
    assert about == json.loads(json.dumps(model.metadata()))


def test_detectron2s_file_has_its_names_and_options(exported):
    content = torch.load(exported("detectron2").path, weights_only=True)
    names = content["model"]
    for name in ("stem.conv1.weight", "stem.conv1.norm.bias", "res2.0.conv1.weight", "res5.1.conv2.norm.running_var"):
        assert name in names
    assert {"res3.0.shortcut.weight", "res3.0.shortcut.norm.weight"} <= names.keys()
    assert not any(name.startswith(("layer", "bn", "conv")) or "downsample" in name for name in names)
    assert content["matching_heuristics"] is True
    np.testing.assert_allclose(content["config"]["MODEL.PIXEL_MEAN"], [123.675, 116.28, 103.53])
    np.testing.assert_allclose(content["config"]["MODEL.PIXEL_STD"], [58.395, 57.12, 57.375])
    assert content["config"]["MODEL.RESNETS.DEPTH"] == 18


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2"])
def test_bottlenecks_groups_and_widths_are_understood(tmp_path, name):
    run = written(tmp_path / "run", trained(f"torchvision/{name}", image_size=72))
    result = moco.export_weights(run, format="detectron2", out=tmp_path / "x.pth")
    assert result.difference <= 1e-5 * result.largest_feature


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_the_authors_layout_has_the_queue_in_float32(pretrained, tmp_path, dtype):
    run = shutil.copytree(pretrained, tmp_path / "run")
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    queue = Queue(30, 8, dtype=dtype)
    content["model"] |= {f"queue.{name}": value for name, value in queue.state_dict().items()}
    torch.save(content, run / "checkpoints" / "last.pt")
    path = moco.export_weights(run, format="moco", out=tmp_path / "x.pth.tar").path
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state["module.queue"].dtype == torch.float32
    assert torch.equal(state["module.queue"], queue.keys.to(torch.float32).T)
    assert not [name for name in state if "scales" in name]


def test_the_authors_layout_holds_both_encoders_heads_and_queue(pretrained, tmp_path):
    path = moco.export_weights(pretrained, format="moco", out=tmp_path / "x.pth.tar").path
    content = torch.load(path, weights_only=True)
    assert content["arch"] == "resnet18"
    state, width = content["state_dict"], 512
    own = torch.load(pretrained / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert torch.equal(state["module.queue"], own["queue.keys_KC"].T)
    assert state["module.queue_ptr"].shape == (1,)
    images = torch.randn(2, 3, 72, 72)
    for encoder in ("encoder_q", "encoder_k"):
        model = torchvision.models.resnet18(num_classes=8)
        model.fc = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), model.fc)
        prefix = f"module.{encoder}."
        model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        ours = build_encoder("resnet18", image_size=72, embedding_dim=8)
        ours.load_state_dict({k.partition(".")[2]: v for k, v in own.items() if k.startswith(encoder)})
        torch.testing.assert_close(model.eval()(images), ours.eval()(images), rtol=1e-4, atol=1e-5)
    assert {name.split(".")[1] for name in state} == {"encoder_q", "encoder_k", "queue", "queue_ptr"}
    back = moco.import_weights(path, out=tmp_path / "back")
    assert back.kind == "MoCo v1/v2 of the authors"
    assert torch.equal(moco.load(tmp_path / "back")(images), moco.load(pretrained)(images))


def test_names_are_one_to_one():
    for name in RESNETS:
        with torch.device("meta"):
            tensors = torchvision.models.get_model(name, weights=None).state_dict()
        kept = [key for key in tensors if not key.startswith("fc.")]
        for renamed in (to_detectron2, to_huggingface):
            assert len({renamed(key) for key in kept}) == len(kept)


@pytest.mark.parametrize(
    ("backbone", "size", "fits"),
    [
        ("resnet_tiny", 16, {"safetensors", "onnx"}),
        ("resnet18", 32, {"safetensors", "onnx"}),
        ("resnet18", 72, set(STANDARD)),
        ("timm/resnet18", 72, set(STANDARD)),
        ("torchvision/resnext50_32x4d", 72, set(STANDARD) - {"huggingface"}),
        ("torchvision/mobilenet_v3_small", 32, {"torchvision", "safetensors", "onnx"}),
        ("timm/vit_tiny_patch16_224", 32, {"timm", "safetensors", "onnx"}),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(tmp_path, backbone, size, fits):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    run = written(tmp_path / "run", trained(backbone, image_size=size))
    for name in set(FORMATS) - fits:
        with pytest.raises(ArchitectureError, match=rf"format {name}: .*these fit: ") as error:
            moco.export_weights(run, format=name)
        assert set(str(error.value).rpartition("these fit: ")[2].split(", ")) == fits
        assert "\n" not in str(error.value)
    assert [path.name for path in run.iterdir()] == ["backbone.safetensors"]
    for name in fits - {"onnx"}:
        assert moco.export_weights(run, format=name).path.is_relative_to(run / "export")


def test_the_number_of_heads_travels_to_timm(tmp_path):
    timm = pytest.importorskip("timm")
    run = written(tmp_path / "run", trained("timm/vit_small_patch16_224", image_size=32, num_heads=12))
    path = moco.export_weights(run, format="timm").path
    assert timm.create_model(f"local-dir:{path}", pretrained=True).blocks[0].attn.num_heads == 12
    config = json.loads((path / "config.json").read_text())
    config["model_args"].pop("num_heads")
    (path / "config.json").write_text(json.dumps(config))
    model = moco.load(run)
    with pytest.raises(RunError, match="timm"):
        prove(model, FORMATS["timm"].module.read(path), what="timm")


def test_a_collapsed_network_proves_nothing(tmp_path):
    model = trained()
    with torch.no_grad():
        model.backbone.layer4[0].bn2.weight.zero_()
        model.backbone.layer4[0].downsample[1].weight.zero_()
    run = written(tmp_path / "run", model)
    with pytest.raises(RunError, match="collapsed"):
        moco.export_weights(run)


def test_files_are_not_replaced_unasked(resnet, tmp_path):
    (tmp_path / "x").write_text("dear to me")
    with pytest.raises(RunError, match="is there already"):
        moco.export_weights(resnet, out=tmp_path / "x")
    assert (tmp_path / "x").read_text() == "dear to me"
    moco.export_weights(resnet, out=tmp_path / "x", overwrite=True)
    moco.export_weights(resnet, out=tmp_path / "x", format="torchvision", overwrite=True)
    assert torch.load(tmp_path / "x", weights_only=True)["arch"] == "resnet18"
    with pytest.raises(RunError, match="nowhere is no folder"):
        moco.export_weights(resnet, out=tmp_path / "nowhere" / "x")


def test_a_missing_package_and_an_unknown_format_are_one_line(resnet, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(needs=("no_such_package",)))
    with pytest.raises(ConfigError, match="format onnx needs no_such_package: pip install no_such_package"):
        moco.export_weights(resnet, format="onnx", out=tmp_path / "x")
    with pytest.raises(ConfigError, match="format='keras': choose one of torchvision, timm"):
        moco.export_weights(resnet, format="keras", out=tmp_path / "x")


def test_the_command_prints_the_difference(resnet, tmp_path, capsys):
    out = tmp_path / "x.pth"
    assert main(["export", str(resnet), "--format", "torchvision", "--out", str(out)]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main(["export", str(resnet), "--format", "torchvision", "--out", str(out), "--overwrite", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["format"], said["images"], said["pixels"]) == ("torchvision", 6, 0)
    assert main(["export", str(resnet), "--format", "keras"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_choices_of_the_command_are_the_formats():
    from typing import get_args

    assert set(get_args(command.FormatName)) == FORMATS.keys()


def test_random_state_stays(resnet, tmp_path):
    for name in ("torchvision", "timm", "huggingface", "safetensors"):
        needed(name)
        torch.manual_seed(0)
        expected = torch.rand(2)
        torch.manual_seed(0)
        moco.export_weights(resnet, format=name, out=tmp_path / name)
        assert torch.equal(torch.rand(2), expected)


def test_probe_files_are_the_same_each_time_and_differ():
    first, second = probe_files(40), probe_files(40)
    assert first == second
    assert len(set(first)) == len(first)
