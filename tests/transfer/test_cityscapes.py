"""Cityscapes instances from a miniature folder: objects, groups, boxes and masks of the map's own pixels."""

from __future__ import annotations

import numpy as np
import pytest

from moco.errors import DataError
from moco.transfer.annotations.cityscapes import read_cityscapes
from moco.transfer.masks import mask_of
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
