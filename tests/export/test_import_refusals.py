"""What an import refuses: missing keys, contradictions, files that could run code, files that are none."""

from __future__ import annotations

import argparse
import json
import pickle
import pickletools
import random
import re

import numpy as np
import pytest
import torch

import moco
from moco.errors import ArchitectureError, ConfigError, RunError
from tests.export import foreign_files as files
from tests.export.models import trained, written


@pytest.mark.parametrize("gone", ["layer3.0.conv1.weight", "bn1.running_mean"])
def test_anything_but_the_head_missing_is_named(tmp_path, gone):
    content = files.v2(files.resnet())
    del content["state_dict"][f"module.encoder_q.{gone}"]
    content["state_dict"]["module.encoder_q.extra.weight"] = torch.ones(1)
    with pytest.raises(ArchitectureError, match=rf"1 missing: {gone}; 1 not expected: extra\.weight") as error:
        moco.import_weights(files.saved(content, tmp_path / "v2.pth"), out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("gone", ["conv1.weight", "layer1.0.conv2.weight"])
def test_a_network_without_its_first_tensors_is_one_line(tmp_path, gone):
    content = files.v2(files.resnet())
    del content["state_dict"][f"module.encoder_q.{gone}"]
    with pytest.raises(ArchitectureError, match="name its architecture") as error:
        moco.import_weights(files.saved(content, tmp_path / "v2.pth"), out=tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_name_that_contradicts_the_tensors_is_refused(tmp_path):
    content = files.v2(files.resnet(), arch="resnet34")
    with pytest.raises(ArchitectureError, match="says it is resnet34, its tensors are those of resnet18"):
        moco.import_weights(files.saved(content, tmp_path / "v2.pth"), out=tmp_path / "run")


def test_options_and_numbers_of_numpy_in_a_file_are_harmless(tmp_path):
    content = files.v2(files.resnet())
    content |= {
        "args": argparse.Namespace(lr=0.03, gpu=None),
        "best": np.float64(0.5),
        "seen": np.arange(3),
        "flag": np.bool_(True),
        "steps": np.int64(4),
    }
    assert moco.import_weights(files.saved(content, tmp_path / "a.pth"), out=tmp_path / "run").kind.startswith("MoCo")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class Settings:
    """Some class of somebody's."""


def test_a_file_runs_no_code(tmp_path):
    for number, harm in enumerate((Trap(tmp_path / "harm"), Settings(), np.array([Settings()], dtype=object))):
        file = files.saved({"state_dict": {"conv1.weight": torch.ones(1)}, "args": harm}, tmp_path / f"{number}.pth")
        with pytest.raises(RunError, match="is not loaded: it could run code") as error:
            moco.import_weights(file, out=tmp_path / "run")
        assert "\n" not in str(error.value)
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"state_dict": Trap(tmp_path / "harm")}))
    with pytest.raises(RunError):
        moco.import_weights(tmp_path / "old.pth", out=tmp_path / "run")
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_used_are_one_line(tmp_path):
    whole = files.saved(files.v2(files.resnet()), tmp_path / "v2.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    files.saved({"epoch": 3}, tmp_path / "none.pth")
    files.saved([1, 2], tmp_path / "list.pth")
    files.saved({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, tmp_path / "odd.pth")
    for name in ("cut", "text", "empty", "none", "list", "odd", "nowhere"):
        with pytest.raises((RunError, ArchitectureError)) as error:
            moco.import_weights(tmp_path / f"{name}.pth", out=tmp_path / "run")
        assert "\n" not in str(error.value)
        assert f"{name}.pth" in str(error.value)
        assert not re.search(r"\(\d+\)", str(error.value)), "a number alone says nothing"


def test_what_is_ours_needs_no_import(tmp_path):
    folder = written(tmp_path / "run", trained("resnet18", image_size=32))
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save({"model": {"encoder_q.backbone.conv1.weight": torch.ones(1)}, "progression": {}}, folder / "last.pt")
    for name in ("backbone.safetensors", "last.pt"):
        with pytest.raises(RunError, match=f"{name} is moco's own: use it as it is"):
            moco.import_weights(folder / name, out=tmp_path / "imported")
    with pytest.raises(RunError, match="moco's own"):
        moco.import_weights(folder, out=tmp_path / "imported")
    with pytest.raises(RunError, match="a folder"):
        moco.import_weights(tmp_path, out=tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_size": 0}, ConfigError, "image_size=0"),
        ({"normalization": "mean"}, ConfigError, "normalization=.mean.: expected imagenet"),
        ({"num_heads": 12}, ArchitectureError, "no ViT"),
        ({"stem": "3x3-stride1"}, ArchitectureError, "first convolution is 7x7"),
        ({"architecture": "resnet_enormous"}, ArchitectureError, "unknown backbone"),
    ],
)
def test_stated_values_that_cannot_be_are_refused(tmp_path, options, error, message):
    file = files.saved(files.resnet().state_dict(), tmp_path / "a.pth")
    with pytest.raises(error, match=message):
        moco.import_weights(file, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_command_says_what_the_file_is(tmp_path, capsys, monkeypatch):
    from moco.cli import main

    monkeypatch.chdir(tmp_path)
    files.saved(files.v2(files.resnet()), tmp_path / "v2.pth.tar")
    assert main(["import", "v2.pth.tar"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("MoCo v1/v2 of the authors, ")
    assert "left out: head (4 tensors), encoder_k, queue, queue_ptr" in said
    stated = json.loads((tmp_path / "runs" / "v2" / "import.json").read_text())
    assert stated["file"] == "v2.pth.tar"
    assert len(stated["sha256"]) == 64
    assert main(["import", "v2.pth.tar"]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert main(["import", "v2.pth.tar", "--out", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "torchvision/resnet18"


def twice_as_wide():
    """A ResNet with twice the channels in every layer, as R50w2x has them and torchvision's models do not."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock, ResNet

    class Wide(ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            if self.inplanes == 64:
                self.inplanes = 128
                self.conv1, self.bn1 = nn.Conv2d(3, 128, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(128)
            return super()._make_layer(block, 2 * planes, blocks, stride, dilate)

    model = Wide(BasicBlock, [1, 1, 1, 1])
    model.fc = nn.Identity()
    return model


def test_a_resnet_that_is_wide_everywhere_is_named_and_can_be_built_by_a_function(tmp_path):
    torch.manual_seed(1)
    model = twice_as_wide().eval()
    file = files.saved({"state_dict": model.state_dict()}, tmp_path / "w2.pth")
    with pytest.raises(ArchitectureError, match=r"2 times the channels .*R50w2x.*--architecture package") as error:
        moco.import_weights(file, out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    factory = f"{__name__}:twice_as_wide"
    moco.import_weights(file, out=tmp_path / "run", architecture=factory, image_size=64)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(moco.load(tmp_path / "run", allow_factory=True)(images), model(images))


def test_files_of_a_few_bytes_are_one_line(tmp_path):
    """PyTorch's reader of old files goes wherever the bytes lead it."""
    file = tmp_path / "odd.pth.tar"
    drawn = random.Random(0)
    codes = [ord(opcode.code) for opcode in pickletools.opcodes]
    for number in range(150):
        content = bytes(drawn.choices([*codes, drawn.randrange(256)], k=number % 4))
        file.write_bytes(drawn.choice((b"", b"\x80\x02")) + content)
        with pytest.raises(RunError, match="odd.pth.tar") as caught:
            moco.import_weights(file, out=tmp_path / "new")
        assert "\n" not in str(caught.value)
