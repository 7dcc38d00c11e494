"""What a run wrote comes back as the same function, or a line says why not."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import moco
from moco.data.preprocess import Preprocessing
from moco.encoder import build_backbone
from moco.errors import ArchitectureError, ConfigError, RunError
from moco.export.load import load
from moco.normalization import IMAGENET
from tests.export.models import trained, written


@pytest.mark.parametrize(
    ("name", "size", "stem"),
    [
        ("resnet_tiny", 16, "auto"),
        ("resnet_small", 16, "3x3-stride1"),
        ("resnet18", 32, "auto"),
        ("resnet18", 72, "auto"),
        ("torchvision/mobilenet_v2", 32, "auto"),
        ("timm/vit_tiny_patch16_224", 32, "auto"),
    ],
)
def test_what_was_written_is_the_same_function(tmp_path, name, size, stem):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    model = trained(name, image_size=size, stem=stem)
    folder = written(tmp_path / "run", model)
    images = torch.randn(3, 3, size, size)
    for path in (folder, str(folder), folder / "backbone.safetensors"):
        back = load(path)
        assert not any(module.training for module in back.modules())
        with torch.inference_mode():
            assert torch.equal(back(images), model(images))
        assert back.feature_dim == back(images).shape[1]
        assert (back.architecture, back.stem, back.image_size) == (model.architecture, model.stem, size)
        assert back.preprocess == Preprocessing(size, *IMAGENET)


def test_a_run_a_loaded_backbone_and_a_module_are_taken(tmp_path):
    model = trained()
    folder, images = written(tmp_path / "run", model), torch.randn(3, 3, 16, 16)
    module, other = copy.deepcopy(model.backbone).train(), Preprocessing(20, *IMAGENET)
    for given in (moco.Run(folder), model):
        assert torch.equal(load(given)(images), model(images))
        assert load(given).preprocess == model.preprocess
        assert load(given, preprocessing=other).preprocess == other
    back = load(module, preprocessing=other)
    assert torch.equal(back(images), model(images))
    assert (back.feature_dim, back.preprocess, back.training) == (model.feature_dim, other, False)
    assert module.training, "it stays as it was"
    with pytest.raises(ConfigError, match="preprocessing"):
        load(module)


def test_weights_of_a_users_module_go_back_into_one(tmp_path):
    model = trained()
    given = load(model.backbone, preprocessing=model.preprocess)
    folder, images = written(tmp_path / "run", given), torch.randn(3, 3, 16, 16)
    with pytest.raises(ArchitectureError, match="backbone="):
        load(folder)
    empty = trained(seed=8).backbone
    assert torch.equal(load(folder, backbone=empty)(images), model(images))
    assert torch.equal(empty(images), model(images)), "filled in place"


def test_the_digest_is_of_all_tensors(tmp_path):
    model = trained()
    assert load(written(tmp_path / "run", model)).digest() == model.digest()
    before = model.digest()
    with torch.no_grad():
        model.backbone.bn1.running_var[0] += 1e-3
    assert model.digest() != before


def test_the_number_of_heads_is_kept(tmp_path):
    pytest.importorskip("timm")
    model = trained("timm/vit_tiny_patch16_224", image_size=32, num_heads=12)
    back = load(written(tmp_path / "run", model))
    assert back.num_heads == 12
    assert back.backbone.blocks[0].attn.num_heads == 12
    six = load(written(tmp_path / "six", trained("timm/vit_tiny_patch16_224", image_size=32, num_heads=6)))
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(back(images), six(images)), "their shapes are the same, the functions are not"


def test_random_state_stays(tmp_path):
    folder = written(tmp_path / "run", trained())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(RunError, match="no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"holds no backbone\.safetensors"):
        load(tmp_path)
    file = written(tmp_path / "run", trained()) / "backbone.safetensors"
    whole = file.read_bytes()
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(RunError, match="not a whole safetensors file") as error:
            load(file)
        assert "\n" not in str(error.value)
    file.write_bytes(b"not at all" * 100)
    with pytest.raises(RunError, match="not a whole safetensors file"):
        load(file)


def header(model, **changes):
    stated = {**model.metadata(), **changes}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in stated.items()
        if value is not None
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "without architecture, stem"),
        ({"preprocessing": None}, "without preprocessing"),
        ({"preprocessing": "{"}, "broken header"),
        ({"preprocessing": {"size": 16}}, "broken header"),
        ({"image_size": "many"}, "broken header"),
        ({"feature_dim": 7}, "states 7 features"),
        ({"architecture": "resnet_enormous"}, "unknown backbone"),
        ({"architecture": "resnet_small"}, r"of another shape: conv1.weight \(16, 3, 3, 3\) instead of \(32"),
        (
            {"architecture": "torchvision/mobilenet_v2", "stem": "standard"},
            r"missing: features.0.0.weight, features.0.1.weight",
        ),
        ({"num_heads": 3}, "num_heads=3"),
        ({"stem": "wide"}, "stem='wide'"),
    ],
)
def test_a_header_that_does_not_fit_is_one_line(tmp_path, changes, message):
    model, file = trained(), tmp_path / "backbone.safetensors"
    tensors = load_file(written(tmp_path / "run", model) / "backbone.safetensors")
    save_file(tensors, file, metadata=None if changes is None else header(model, **changes))
    with pytest.raises((RunError, ArchitectureError), match=message) as error:
        load(file)
    assert "\n" not in str(error.value)


def test_missing_and_foreign_keys_are_named(tmp_path):
    model, file = trained(), tmp_path / "backbone.safetensors"
    tensors = load_file(written(tmp_path / "run", model) / "backbone.safetensors")
    del tensors["bn1.weight"]
    save_file({**tensors, "fc.weight": torch.ones(2)}, file, metadata=header(model))
    with pytest.raises(ArchitectureError, match=r"1 missing: bn1.weight; 1 not expected: fc.weight"):
        load(file)


CALLED = []


def factory():
    CALLED.append(1)
    return build_backbone("resnet_tiny", image_size=16).module


def test_a_file_names_no_function_to_be_called_unless_it_is_allowed(tmp_path):
    model = trained(f"{__name__}:factory")
    folder = written(tmp_path / "run", model)
    CALLED.clear()
    with pytest.raises(ArchitectureError, match="allow_factory=True"):
        load(folder)
    assert not CALLED
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(load(folder, allow_factory=True)(images), model(images))
