"""Which networks are compared: the same architecture, random by seed, or with ImageNet weights that are on the disk."""

from __future__ import annotations

import pytest
import torch

from moco.comparison.contenders import contenders
from moco.comparison.settings import Settings
from moco.comparison.subject import open_subject

OPTIONS = {"image_size": None, "data_size": None, "allow_factory": False, "seed": 0}


def test_random_weights_follow_from_the_seed_and_leave_the_generator_alone():
    subject = open_subject("resnet_tiny", **{**OPTIONS, "data_size": 16})
    state = torch.get_rng_state()
    first, again, other = (subject.random(seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert subject.preprocess.size == 16


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_imagenet_weights_are_used_only_if_they_are_on_the_disk(hub):
    torchvision = pytest.importorskip("torchvision")
    subject = open_subject("resnet18", **{**OPTIONS, "image_size": 96})
    assert "not on the disk" in subject.imagenet(download=False)
    stored = torchvision.models.resnet18().state_dict()
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    torch.save(stored, hub / url.rpartition("/")[2])
    module = subject.imagenet(download=False)
    assert torch.equal(module.conv1.weight, stored["conv1.weight"])
    assert not module.training
    networks, notes = contenders(subject, Settings())
    assert [network.network for network in networks] == ["run", "imagenet"]
    assert notes == []


@pytest.mark.parametrize("name", ["resnet18", "resnet_tiny"])
def test_a_stem_or_network_without_imagenet_weights_is_said(name, hub):
    subject = open_subject(name, **{**OPTIONS, "image_size": 32})
    assert "there are none" in subject.imagenet(download=True)
    _, notes = contenders(subject, Settings())
    assert "ImageNet-supervised weights left out" in notes[0]
