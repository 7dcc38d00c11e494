"""Which networks are compared: the same architecture, random by seed, or with ImageNet weights that are on the disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from moco.commands.evaluated_model import open_model
from moco.data.arrays import ArraySource
from moco.data.preprocess import Preprocessing
from moco.errors import ArchitectureError
from moco.evaluation.network import networks
from moco.evaluation.settings import Settings
from moco.normalization import IMAGENET

IMAGES = ArraySource(np.zeros((2, 16, 16, 3), np.uint8))


def opened(name, image_size):
    return open_model(name, Settings(image_size=image_size), None, IMAGES)


def test_random_weights_follow_from_the_seed_and_leave_the_generator_alone():
    model = open_model("resnet_tiny", Settings(), None, IMAGES)
    state = torch.get_rng_state()
    first, again, other = (model.random(seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.preprocess.size == 16


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_imagenet_weights_are_used_only_if_they_are_on_the_disk(hub):
    torchvision = pytest.importorskip("torchvision")
    model = opened("resnet18", 96)
    with pytest.raises(ArchitectureError, match="not on the disk"):
        model.imagenet(download=False)
    stored = torchvision.models.resnet18().state_dict()
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    torch.save(stored, hub / url.rpartition("/")[2])
    module = model.imagenet(download=False)
    assert torch.equal(module.conv1.weight, stored["conv1.weight"])
    assert not module.training
    found, notes = networks(model, Settings())
    assert [network.label for network in found] == ["run", "imagenet"]
    assert notes == []


@pytest.mark.parametrize("name", ["resnet18", "resnet_tiny"])
def test_a_stem_or_network_without_imagenet_weights_is_said(name, hub):
    model = opened(name, 32)
    with pytest.raises(ArchitectureError, match="there are none"):
        model.imagenet(download=True)
    _, notes = networks(model, Settings())
    assert "ImageNet-supervised weights left out" in notes[0]


def test_a_module_is_drawn_anew_where_every_layer_can_be():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = open_model(layers, Settings(), Preprocessing(16, *IMAGENET), IMAGES)
    assert model.backbone.feature_dim == 4
    first, again, other = (model.random(seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, layers[0].weight)
    layers.register_parameter("token", nn.Parameter(torch.zeros(1)))
    layers.reset_parameters = None
    found, notes = networks(open_model(layers, Settings(), Preprocessing(16, *IMAGENET), IMAGES), Settings())
    assert [network.label for network in found] == ["run"]
    assert any("Sequential" in note for note in notes)
