"""`moco.transfer` on label maps and on a Cityscapes folder: a table with both initialisations, and what is refused."""

from __future__ import annotations

import json

import pytest

import moco
from moco.data.preprocess import Preprocessing
from moco.encoder import SmallResNet
from moco.errors import ConfigError, DataError
from moco.normalization import IMAGENET
from moco.transfer.annotations import open_annotations
from tests.transfer.label_folders import write_annot, write_cityscapes

PREPROCESSING = Preprocessing(32, *IMAGENET)


def transferred(tmp_path, task, train, test, **options):
    return moco.transfer(
        task,
        backbone=SmallResNet(width=4),
        preprocessing=PREPROCESSING,
        train=str(train),
        test=str(test),
        out=str(tmp_path / "out"),
        iterations=3,
        image_size=32,
        batch_size=2,
        workers=0,
        device="cpu",
        quiet=True,
        **{"initialisations": ("moco", "random"), **options},
    )


def test_both_initialisations_are_compared_on_label_maps(tmp_path):
    train, test = write_annot(tmp_path / "train", void=200), write_annot(tmp_path / "test", 2, void=200)
    found = transferred(tmp_path, "semantic-segmentation", train, test, void_index=200)
    assert [row.label for row in found.rows] == ["moco", "random"]
    assert 0 <= found.row("moco").mean("mIoU") <= 100
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["settings"]["train"]["void"] == [200]
    assert (tmp_path / "out" / "semantic-segmentation.png").is_file()


def test_a_cityscapes_folder_gives_both_kinds_of_segmentation(tmp_path):
    pytest.importorskip("faster_coco_eval")
    root = write_cityscapes(tmp_path / "cityscapes")
    settings = transferred(tmp_path, "semantic-segmentation", root, root, initialisations=("moco",)).settings
    assert (settings["train"]["images"], settings["test"]["images"], len(settings["classes"])) == (2, 1, 19)
    train, test = (open_annotations(root, use=use) for use in ("train", "test"))
    assert (len(train.images), len(test.images), len(train.categories)) == (2, 1, 8)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("semantic-segmentation", {"rois": 64}),
        ("semantic-segmentation", {"architecture": "c4"}),
        ("semantic-segmentation", {"schedule": "coco-1x"}),
        ("detection", {"schedule": "voc-semantic-30k"}),
        ("detection", {"void_index": 11}),
    ],
)
def test_options_of_the_other_tasks_are_refused(tmp_path, task, options):
    root = write_cityscapes(tmp_path / "cityscapes")
    with pytest.raises(ConfigError):
        transferred(tmp_path, task, root, root, **options)


def test_maps_of_other_classes_are_refused_before_anything_is_trained(tmp_path):
    train, test = write_annot(tmp_path / "train"), write_annot(tmp_path / "test", void=9)
    with pytest.raises(DataError, match="no class"):
        transferred(tmp_path, "semantic-segmentation", train, test)
    assert not (tmp_path / "out").exists()
