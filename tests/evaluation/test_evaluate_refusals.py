"""`moco evaluate`: one line for each thing that cannot be measured."""

from __future__ import annotations

import shutil

import pytest

from moco.errors import ArchitectureError, ConfigError, DataError, RunError
from tests.evaluation.conftest import evaluate


def remove_class(root):
    shutil.rmtree(root / "train" / "red")


def empty_class(root):
    for path in (root / "train" / "red").iterdir():
        path.unlink()


def one_class(root):
    (root / "labels.csv").write_text("\n".join(["path,label", *(f"{p},x" for p in root.rglob("*.png"))]))


def missing_file(root):
    rows = ["path,label", *(f"{p},{p.parent.name}" for p in root.rglob("*.png")), f"{root}/train/gone.png,red"]
    (root / "labels.csv").write_text("\n".join(rows))


def same_images(root):
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")


def no_labels(root):
    for path in list((root / "train").rglob("*.png")):
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    for name in ("blue", "green", "red"):
        (root / "train" / name).rmdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_class, r"has classes that train has not \(red\)"),
        (empty_class, "train/red holds no images"),
        (one_class, r"all of one class \(x\)"),
        (missing_file, r"1 of its paths are no image of train or test .*gone.png"),
        (same_images, "every test image is among the train images"),
        (no_labels, "train has no labels"),
    ],
)
def test_what_would_make_a_figure_worthless_is_refused(run, coloured, tmp_path, spoil, message):
    root = tmp_path / "data"
    shutil.copytree(coloured, root)
    spoil(root)
    labels = str(root / "labels.csv") if (root / "labels.csv").exists() else None
    with pytest.raises(DataError, match=message) as caught:
        evaluate(run, root, labels=labels, baselines="none")
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(run, coloured, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(run / "backbone.safetensors", framework="pt") as file:
        stated = dict(file.metadata())
    other = tmp_path / "other.safetensors"
    save_file(load_file(run / "backbone.safetensors"), other, {**stated, "architecture": "torchvision/resnet18"})
    with pytest.raises(ArchitectureError, match="does not fit"):
        evaluate(other, coloured)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_neighbors": 61}, ConfigError, "num_neighbors=61 with 60 train images"),
        ({"protocol": "guess"}, ConfigError, "choose one of knn"),
        ({"seeds": 0}, ConfigError, "seeds=0: need at least 1"),
        ({"label_fractions": [2.0]}, ConfigError, "label_fractions"),
        ({"learning_rates": []}, ConfigError, "learning_rates"),
        ({"device": "abacus"}, ConfigError, "device='abacus'"),
        ({"learning_rates": [3.0]}, ConfigError, "counts with protocol linear and probe paper or both; leave it out"),
        ({"protocol": "scores", "num_neighbors": 3}, ConfigError, "num_neighbors=3 would change nothing"),
        ({"protocol": "scores", "labels": "l.csv"}, ConfigError, "labels=l.csv would change nothing"),
        ({"baselines": "none", "epochs": 3}, ConfigError, "epochs=3 would change nothing"),
        ({"baselines": "auto", "epochs": 3}, ConfigError, "epochs=3 would change nothing"),
        ({"held_out": 0.5}, ConfigError, "held_out=0.5 would change nothing: it counts without test images"),
    ],
)
def test_wrong_options_are_one_line(run, coloured, change, error, message):
    with pytest.raises(error, match=message) as caught:
        evaluate(run, coloured, **change)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_nowhere_is_said(coloured):
    with pytest.raises(ArchitectureError, match="'resnet_smal' is no run, no file and no architecture"):
        evaluate("resnet_smal", coloured)
    with pytest.raises(RunError, match="no such file"):
        evaluate("gone.safetensors", coloured)
