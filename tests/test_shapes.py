"""A run on images that are not square, from the command line to its figures, features and continuation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

import moco
from moco.cli import main
from moco.errors import ConfigError
from tests.conftest import write_photos


@pytest.fixture(scope="module")
def photos_folder(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


SMALL = ["--recipe=v2", "--backbone=resnet_tiny", "--batch-size=4", "--dictionary-size=8", "--quiet", "--threads=1"]
SMALL += ["--workers=0", "--accelerator=cpu", "--steps=2", "--num-neighbors=2", "--knn-evaluations=1"]


def start(photos_folder, out) -> list[str]:
    return ["pretrain", str(photos_folder), "--out", str(out), *SMALL]


def test_a_run_of_two_sides_all_the_way(photos_folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        main(
            [
                "pretrain",
                str(photos_folder),
                "--out",
                str(out),
                "--image-size",
                "16x24",
                "--rotate-probability=1",
                *SMALL,
            ]
        )
        == 0
    )
    assert yaml.safe_load((out / "config.yaml").read_text())["image_size"] == [16, 24]
    run, model = moco.Run(out), moco.load(out)
    assert run.config.image_size == model.image_size == model.preprocess.size == (16, 24)
    assert moco.load(out / "checkpoints/last.pt").preprocess == model.preprocess
    assert 0 <= run.summary["knn_pixels"] <= 1
    found = moco.embed(out, photos_folder, out=None, workers=1, device="cpu", quiet=True)
    file = photos_folder / found.paths[0]
    with torch.no_grad():
        alone = model(model.preprocess(file)[None])[0]
    np.testing.assert_allclose(found.features[0], alone, rtol=1e-4, atol=1e-5)
    report = moco.evaluate(out, train=photos_folder, num_neighbors=2, device="cpu", quiet=True)
    assert report.as_dict()["network"]["image_size"] == (16, 24)
    assert "(resnet_tiny, 16x24 px)" in str(report)
    assert main(["pretrain", "--out", str(out), "--resume", "--image-size=16x24", "--quiet"]) == 0
    assert main(["pretrain", "--out", str(out), "--resume", "--image-size=24x16", "--quiet"]) == 2
    assert "has image_size=16x24, not image_size=24x16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "stored"), [("16x24", [16, 24]), ("[16, 24]", [16, 24]), ("[24, 24]", 24), ("24", 24)]
)
def test_a_file_of_options_states_a_size_in_either_form(photos_folder, tmp_path, text, stored):
    (tmp_path / "a.yaml").write_text(f"image_size: {text}\n")
    out = tmp_path / "run"
    assert main([*start(photos_folder, out), "--config", str(tmp_path / "a.yaml"), "--knn-evaluations=0"]) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["image_size"] == stored


def test_a_fitted_run_keeps_the_size_that_is_stated(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (60, 20, 30, 3), dtype=np.uint8)
    options = {"backbone": "resnet_tiny", "batch_size": 8, "steps": 1, "workers": 0, "accelerator": "cpu", "threads": 1}
    run = moco.pretrain(images, out=tmp_path / "run", image_size="16x24", **options)
    said = capsys.readouterr().err
    assert run.config.image_size == (16, 24)
    assert "image_size                    16x24  stated" in said
    assert "resnet_tiny at 16x24 px" in said


def test_v3_on_a_grid_that_is_not_square_goes_on_bit_by_bit(photos_folder, tmp_path):
    pytest.importorskip("timm")
    options = {
        "recipe": "v3-vit",
        "backbone": "v3/vit_tiny_patch8",
        "image_size": (16, 24),
        "batch_size": 4,
        "steps": 2,
    }
    options |= {"workers": 0, "accelerator": "cpu", "threads": 1, "knn_evaluations": 0, "quiet": True, "hidden_dim": 16}
    run = moco.pretrain(photos_folder, out=tmp_path / "run", **options)
    assert moco.load(run).backbone.pos_embed.shape[1] == 1 + 2 * 3
    again = moco.pretrain(photos_folder, out=tmp_path / "again", init=run, **options)
    assert again.config.image_size == (16, 24)
    square = {**options, "image_size": (8, 48)}  # as many positions in another grid
    with pytest.raises(ConfigError, match="image_size=8x48 with init=.*, whose positions are for images of 16x24 px"):
        moco.pretrain(photos_folder, out=tmp_path / "other", init=run, **square)


def test_a_grid_of_runs_takes_sizes_of_both_kinds():
    from moco.cli.ablate import read_list

    assert read_list("image_size", "16, 16x24") == [16, "16x24"]
    with pytest.raises(ConfigError, match="image_size='16y24': expected a side in pixels"):
        moco.Config(image_size=read_list("image_size", "16y24")[0])
