"""Trained weights by name, from a file, and those that cannot be had."""

from __future__ import annotations

import pytest

from moco.errors import ArchitectureError, ConfigError, RunError
from moco.export.backbone import write_backbone
from moco.export.trained import trained_backbone
from tests.test_starting_weights import trained_small


def test_timms_weights_by_name_come_with_their_normalisation(monkeypatch):
    timm = pytest.importorskip("timm")
    create, asked = timm.create_model, []

    def without_download(name, *, pretrained, **options):
        asked.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_download)
    model = trained_backbone("timm/tf_efficientnet_lite0.in1k")
    assert asked[0] == ("tf_efficientnet_lite0.in1k", True)
    assert (model.architecture, model.preprocess.mean) == ("timm/tf_efficientnet_lite0", (0.5, 0.5, 0.5))
    with pytest.raises(ArchitectureError, match="no trained weights of the name"):
        trained_backbone("timm/resnet18.nobody")


def test_weights_that_cannot_be_had_are_one_line(monkeypatch):
    from torchvision.models import ResNet18_Weights

    def offline(*_, **__):
        raise OSError("no network here\nsecond line")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(ConfigError, match=r"torchvision/resnet18 cannot be had \(no network here\): fetch them"):
        trained_backbone("torchvision/resnet18")
    with pytest.raises(RunError, match="no such file"):
        trained_backbone("nowhere.pth")
    with pytest.raises(RunError, match="nowhere: no such file or run, and no trained weights of that name"):
        trained_backbone("other/nowhere")


def test_a_written_module_without_network_is_no_factory(tmp_path):
    module = trained_small()
    write_backbone(
        module,
        tmp_path / "small.safetensors",
        metadata={
            "architecture": "module/Small",
            "stem": "standard",
            "image_size": 16,
            "feature_dim": 6,
            "preprocessing": {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
        },
    )
    with pytest.raises(ArchitectureError, match="holds the weights of a module Small"):
        trained_backbone(tmp_path / "small.safetensors")


def test_torchvisions_file_is_read_without_running_code(monkeypatch):
    from torchvision.models import ResNet18_Weights

    asked = {}

    def look(_, **options):
        asked.update(options)
        raise OSError("seen")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", look)
    with pytest.raises(ConfigError, match="seen"):
        trained_backbone("torchvision/resnet18")
    assert asked["weights_only"] is asked["check_hash"] is True
