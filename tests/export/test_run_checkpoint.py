"""A run's checkpoint is as good as its folder, also where the run was killed; other files are refused by name."""

from __future__ import annotations

import shutil

import pytest
import torch

import moco
from moco.errors import ArchitectureError, RunError
from tests.export.test_import_refusals import Trap


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run on images of two classes, and the images."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    for number in range(24):
        place = folder / "photos" / ("cats", "dogs")[number % 2] / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(place)
    options = {"backbone": "resnet18", "image_size": 24, "stem": "standard", "normalization": "cifar", "batch_size": 4}
    options |= {
        "dictionary_size": 8,
        "steps": 3,
        "threads": 1,
        "knn_evaluations": 0,
        "embedding_dim": 8,
        "recipe": "v2",
    }
    run = moco.pretrain(folder / "photos", out=folder / "run", quiet=True, **options)
    return run.path, folder / "photos"


@pytest.fixture
def killed(whole, tmp_path):
    """The same run as a kill leaves it: no weights file, no summary."""
    run = shutil.copytree(whole[0], tmp_path / "killed")
    (run / "backbone.safetensors").unlink()
    (run / "summary.json").unlink()
    return run


def test_the_checkpoint_holds_the_network_of_the_weights_file(whole, killed):
    run, images = whole[0], torch.randn(3, 3, 24, 24)
    expected = moco.load(run)
    for file in (run / "checkpoints" / "last.pt", killed / "checkpoints" / "last.pt"):
        back = moco.load(file)
        with torch.inference_mode():
            assert torch.equal(back(images), expected(images))
        assert back.metadata() == expected.metadata()


def test_every_command_takes_it(whole, killed, tmp_path):
    run, photos = whole
    file = killed / "checkpoints" / "last.pt"
    asked = {"train": str(photos), "baselines": "none", "num_neighbors": 3, "quiet": True}
    report, expected = moco.evaluate(file, **asked), moco.evaluate(run, **asked)
    for inputs in ("features", "embeddings"):
        assert report.value("knn_top1", inputs=inputs) == expected.value("knn_top1", inputs=inputs)
    features = moco.embed(file, photos, out=tmp_path / "f.npz", quiet=True).path
    found = moco.neighbours(file, photos, features=features, out=tmp_path / "n.png", count=2, quiet=True)
    assert len(found.nearest[0]) == 2
    assert moco.export_weights(file, format="torchvision").path.parent == killed / "export"
    layout = moco.export_weights(run / "checkpoints" / "last.pt", format="moco", out=tmp_path / "authors.pth.tar")
    assert any(
        name.startswith("module.encoder_k.") for name in torch.load(layout.path, weights_only=True)["state_dict"]
    )


def test_a_run_without_weights_names_its_checkpoint(killed):
    for place in (killed, killed / "checkpoints"):
        with pytest.raises(RunError, match=r"come to its end, or the checkpoint .*killed/checkpoints/last\.pt$"):
            moco.load(place)


def test_what_is_no_checkpoint_of_ours_says_what_to_do(whole, killed, tmp_path):
    run = whole[0]
    alone = shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "last.pt")
    foreign, evil, cut = tmp_path / "foreign.pth", tmp_path / "evil.pt", tmp_path / "cut.pt"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, foreign)
    torch.save({"model": Trap(tmp_path / "trap")}, evil)
    cut.write_bytes((run / "checkpoints" / "last.pt").read_bytes()[:5000])
    cases = {
        alone: "there is no .*config.yaml: name the checkpoint in its run's folder",
        foreign: f"no checkpoint of a moco run: make a run of it with moco import {foreign}",
        evil: "which is not loaded: it could run code",
        cut: "is not a readable checkpoint",
    }
    for file, message in cases.items():
        with pytest.raises(RunError, match=message) as error:
            moco.load(file)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "trap").exists()
    (killed / "config.yaml").write_text("backbone: resnet18\n")
    with pytest.raises(RunError, match=r"config\.yaml cannot be read"):
        moco.load(killed / "checkpoints" / "last.pt")


def test_a_checkpoint_of_another_architecture_names_the_keys(killed):
    config = killed / "config.yaml"
    config.write_text(config.read_text().replace("backbone: resnet18", "backbone: resnet50"))
    with pytest.raises(ArchitectureError, match="does not fit; .* missing: layer1"):
        moco.load(killed / "checkpoints" / "last.pt")


def test_a_checkpoint_calls_no_function_unasked(killed):
    config = killed / "config.yaml"
    config.write_text(config.read_text().replace("backbone: resnet18", "backbone: os:getcwd"))
    with pytest.raises(ArchitectureError, match="allow_factory"):
        moco.load(killed / "checkpoints" / "last.pt")
