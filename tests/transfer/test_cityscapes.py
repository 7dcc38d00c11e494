"""Cityscapes from a miniature folder: instances of the map's own pixels, both kinds of segmentation in one command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import moco
from moco.encoder import SmallResNet
from moco.errors import ConfigError, DataError
from moco.normalization import IMAGENET
from moco.transfer.annotations.cityscapes import read_cityscapes
from moco.transfer.annotations.masks import mask_of
from moco.transfer.fine_tuning.scale import CITYSCAPES_SCHEDULES, SMALL, SMALL_SEMANTIC, scale_of
from tests.transfer.label_folders import write_cityscapes

pytest.importorskip("faster_coco_eval")


def test_objects_have_the_maps_boxes_and_masks(tmp_path):
    train = read_cityscapes(write_cityscapes(tmp_path), use="train")
    assert (len(train.images), len(train.categories)) == (2, 8)
    person, *cars = train.images[0].instances
    named = [train.categories[instance.category - 1] for instance in (person, *cars)]
    assert named == ["person", "car", "car"]
    assert [instance.crowd for instance in (person, *cars)] == [True, False, False]
    assert [car.box for car in cars] == [(5, 12, 15, 20), (20, 12, 30, 20)]
    assert cars[0].area == 80
    mask = mask_of(cars[0].outline, 40, 56, size=(40, 56))
    expected = np.zeros((40, 56), np.uint8)
    expected[12:20, 5:15] = 1
    assert np.array_equal(mask, expected)


def test_missing_files_are_counted_and_none_at_all_refused(tmp_path):
    root = write_cityscapes(tmp_path)
    first, second = sorted((root / "gtFine" / "train").rglob("*instanceIds.png"))
    first.unlink()
    train = read_cityscapes(root, use="train")
    assert (len(train.images), len(train.problems)) == (1, 1)
    second.unlink()
    with pytest.raises(DataError, match="none of 2"):
        read_cityscapes(root, use="train")


def test_a_split_in_the_folder_is_that_split(tmp_path):
    root = write_cityscapes(tmp_path)
    assert read_cityscapes(root / "leftImg8bit" / "val", use="train").images == read_cityscapes(root, use="test").images


def test_a_folder_without_images_is_refused(tmp_path):
    root = write_cityscapes(tmp_path)
    with pytest.raises(DataError, match="unpacked"):
        read_cityscapes(root / "leftImg8bit" / "test", use="test")


@pytest.fixture
def few_batches(monkeypatch):
    for name, scale in (("SMALL", SMALL), ("SMALL_SEMANTIC", SMALL_SEMANTIC)):
        monkeypatch.setattr(f"moco.transfer.fine_tuning.scale.{name}", dataclasses.replace(scale, precise=1))


def transferred(root, out, **options):
    small = {"iterations": 1, "image_size": 32, "batch_size": 2, "width": 8, "rois": 4, "workers": 0, "quiet": True}
    return moco.transfer(
        "cityscapes",
        backbone=SmallResNet(width=4),
        preprocessing=moco.Preprocessing(32, *IMAGENET),
        train=str(root),
        out=str(out),
        device="cpu",
        **{"initialisations": ("moco", "random"), **small, **options},
    )


def test_one_command_gives_one_table_of_both_kinds(tmp_path, few_batches):
    root = write_cityscapes(tmp_path / "cityscapes")
    found = transferred(root, tmp_path / "out")
    assert found.semantic is not None
    assert [row.label for row in found.rows] == [row.label for row in found.semantic.rows] == ["moco", "random"]
    assert {"AP", "AP50", "box_AP"} <= set(found.rows[0].scores[0])
    assert {"mIoU", "pixel accuracy"} <= set(found.semantic.rows[0].scores[0])
    head = next(line for line in str(found).splitlines() if "mIoU" in line and "AP50" in line)
    assert next(len(line) for line in str(found).splitlines() if line.startswith("random ")) == len(head)
    assert "AP of moco less random" in str(found)
    assert "mIoU of moco less random" in str(found)
    assert (found.settings["train"]["images"], found.semantic.settings["test"]["images"]) == (2, 1)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (written["task"], written["semantic"]["task"]) == ("cityscapes", "semantic-segmentation")
    for name in ("instance-segmentation", "semantic-segmentation"):
        alone = json.loads((tmp_path / "out" / name / "comparison.json").read_text())
        assert alone["results"] == (written if name[0] == "i" else written["semantic"])["results"]
        assert (tmp_path / "out" / name / f"{name}.png").is_file()


def test_both_kinds_have_the_papers_schedules():
    parts = CITYSCAPES_SCHEDULES["cityscapes"]
    lengths = {task: scale_of(name, task).schedule.iterations for task, name in parts.items()}
    assert lengths == {"instance-segmentation": 24_000, "semantic-segmentation": 90_000}


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"learning_rate": 0.1}, ConfigError, "its two tasks have one each"),
        ({"train_images": "x"}, ConfigError, "its folder holds the images"),
        ({"void_index": 3}, ConfigError, "would change nothing"),
        ({"schedule": "coco-1x"}, ConfigError, "choose one of small, cityscapes"),
        ({"test": "elsewhere"}, DataError, "no Cityscapes folder"),
    ],
)
def test_what_means_nothing_for_both_is_refused(tmp_path, options, kind, said):
    root = write_cityscapes(tmp_path / "cityscapes")
    with pytest.raises(kind, match=said):
        transferred(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_one_split_is_not_both_train_and_test(tmp_path):
    root = write_cityscapes(tmp_path / "cityscapes")
    with pytest.raises(DataError, match="name another with --test"):
        transferred(root / "leftImg8bit" / "train", tmp_path / "out")
