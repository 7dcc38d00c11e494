"""Copies of train images among the test images; several labels an image from one CSV file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.labels import is_multilabel, read_multilabels, unmatched_paths, with_labels
from moco.data.leakage import shared_images
from moco.errors import DataError
from tests.evaluation.test_image_batches import noise


def test_copies_of_train_images_are_found_in_folders_by_their_bytes(photos, tmp_path):
    test = tmp_path / "test"
    shutil.copytree(photos, test)
    for number, path in enumerate(sorted(test.rglob("*.jpg"))):
        if number >= 2:
            path.write_bytes(path.read_bytes() + bytes([number]))  # the same picture in another file is no copy
    (test / "cats" / "renamed.jpg").write_bytes(sorted(photos.rglob("*.jpg"))[20].read_bytes())
    pairs = shared_images(FolderSource(photos), FolderSource(test))
    assert len(pairs) == 3
    assert "cats/renamed.jpg" in {name for name, _ in pairs}
    assert all((photos / train).read_bytes() == (test / name).read_bytes() for name, train in pairs)


def test_copies_are_found_in_arrays_by_their_pixels():
    train, test = noise(10), noise(4, seed=1)
    test[2] = train[7]
    assert shared_images(ArraySource(train), ArraySource(test)) == [("array[2]", "array[7]")]
    train[3] = train[9] = train[7]
    assert shared_images(ArraySource(train), ArraySource(test)) == [("array[2]", "array[3]")]


def test_images_of_other_shapes_are_no_copies_though_their_bytes_are_the_same():
    wide, high = noise(3, height=10, width=20), noise(3, height=10, width=20).reshape(3, 20, 10, 3)
    assert wide.tobytes() == high.tobytes()
    assert shared_images(ArraySource(wide), ArraySource(high)) == []


def test_several_labels_of_an_image_from_one_file(photos):
    source = FolderSource(photos)
    names = [source.item_name(i) for i in range(24)]
    csv = photos / "many.csv"
    csv.write_text(f"path,labels\n{names[0]},red|round\n{names[1]},\n{names[2]},red\n{names[2]},big\n")
    assert is_multilabel(csv)
    (targets,), classes = read_multilabels(csv, [source])
    assert classes == ("big", "red", "round")
    assert targets[:3].tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert np.isnan(targets[3:]).all()
    with pytest.raises(DataError, match="label"):
        with_labels(source, csv)
    csv.write_text("path,label\na,b\n")
    assert not is_multilabel(csv)


def test_paths_of_a_csv_without_an_image_are_listed(photos):
    source = FolderSource(photos)
    csv = photos / "labels.csv"
    csv.write_text(f"path,label\n{source.item_name(0)},a\ngone.jpg,b\n")
    assert unmatched_paths(csv, [source]) == ["gone.jpg"]
