"""`init` on images of other than three channels: a module takes what it was built for, weights are inherited."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import moco
from moco.encoder.stem import inherited
from moco.errors import ArchitectureError, ConfigError, DataError
from moco.export.trained import in_channels, trained_backbone
from tests.export.models import trained

OPTIONS = {
    "recipe": "v2",
    "image_size": 16,
    "steps": 1,
    "batch_size": 8,
    "dictionary_size": 16,
    "workers": 0,
    "threads": 1,
}
OPTIONS |= {"accelerator": "cpu", "quiet": True, "knn_evaluations": 0}


def images(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 20, 24, channels), dtype=np.uint8)


def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def four() -> nn.Module:
    return network(4)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_trained_module_takes_the_channels_it_was_built_for(tmp_path, channels):
    module = network(channels)
    run = moco.pretrain(images(channels), out=tmp_path / "run", init=module, **OPTIONS)
    assert run.config.channels == channels
    measured = moco.pretrain(
        images(channels), out=tmp_path / "same", backbone=network(channels), channels=channels, **OPTIONS
    )
    assert run.config.normalization == measured.config.normalization
    assert trained_backbone(module, image_size=16).channels == channels


def test_a_function_that_returns_a_trained_module_likewise(tmp_path):
    name = "tests.test_starting_channels:four"
    assert trained_backbone(name, image_size=16).channels == 4
    assert moco.pretrain(images(4), out=tmp_path / "run", init=name, **OPTIONS).config.channels == 4


def test_images_of_other_channels_than_a_module_are_one_line(tmp_path):
    with pytest.raises(DataError, match="each of 24 images has 3 channels, expected 4"):
        moco.pretrain(images(3), out=tmp_path / "run", init=network(4), **OPTIONS)
    with pytest.raises(ArchitectureError, match="takes no 4x16x16 image: .*; its first convolution takes 3: build"):
        moco.pretrain(images(4), out=tmp_path / "run", init=network(3), channels=4, **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_module_that_repeats_grey_itself_is_taken_at_its_word(tmp_path):
    class Repeats(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network(3)

        def forward(self, x):
            return self.inner(x.repeat(1, 3, 1, 1))

    assert moco.pretrain(images(1), out=tmp_path / "run", init=Repeats(), channels=1, **OPTIONS).config.channels == 1


def test_inherited_weights_answer_alike_where_the_channels_are_alike():
    weight = torch.randn(5, 3, 3, 3)
    grey = torch.rand(2, 1, 9, 9)
    expected = nn.functional.conv2d(grey.repeat(1, 3, 1, 1), weight)
    torch.testing.assert_close(nn.functional.conv2d(grey, inherited(weight, 1)), expected)
    six, mean = inherited(weight, 6), weight.sum(1) / 6
    torch.testing.assert_close(six.sum(1) / 6, mean)
    torch.testing.assert_close(six[:, :3], six[:, 3:])
    torch.testing.assert_close(inherited(weight[:, :1], 3).sum(1), weight[:, 0])


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet18", "timm/vit_tiny_patch16_224"])
def test_weights_by_file_are_inherited_where_channels_are_stated(tmp_path, name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model = trained(name, image_size=16)
    for channels in (1, 4):
        other = in_channels(model, channels)
        changed = [
            key
            for key, value in other.backbone.state_dict().items()
            if value.shape != model.backbone.state_dict()[key].shape
        ]
        assert len(changed) == 1
        assert (other.channels, other.preprocess.channels) == (channels, channels)
        kept = {key: value for key, value in model.backbone.state_dict().items() if key not in changed}
        assert all(torch.equal(other.backbone.state_dict()[key], value) for key, value in kept.items())
    assert in_channels(model, 3) is in_channels(model, None) is model


def test_a_run_of_four_channels_goes_on_from_one_of_three(tmp_path):
    first = moco.pretrain(images(3), out=tmp_path / "first", backbone="resnet_tiny", **OPTIONS)
    run = moco.pretrain(images(4), out=tmp_path / "run", init=first, channels=4, **OPTIONS)
    assert run.config.channels == moco.load(run).backbone.conv1.in_channels == 4
    before, after = (moco.load(each).backbone.state_dict() for each in (first, run))
    torch.testing.assert_close(after["conv1.weight"], inherited(before["conv1.weight"], 4))  # frozen
    with pytest.raises(ConfigError, match="mean|normalization"):
        moco.pretrain(images(4), out=tmp_path / "x", init=first, channels=4, normalization="imagenet", **OPTIONS)
