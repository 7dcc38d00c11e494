"""What a run says of its images: one line each, where it is true and only there."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from moco.config import Config
from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.training.first_lines import about_images
from moco.training.images import open_images


def said(data, **options):
    config = Config(batch_size=4, held_out=0.25, epochs=None, steps=1, **options)
    return list(about_images(open_images(data, config), config))


def test_class_folders_are_named_with_the_way_to_do_without(photos):
    (line,) = said(photos)
    assert line.startswith(f"classes: 2 from the folders in {photos} (cats, dogs);")
    assert "--knn-evaluations 0" in line
    assert said(photos, knn_evaluations=0) == []


def test_labels_of_arrays_and_their_absence_are_said():
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
    assert said(images) == ["classes: none known, so no kNN figures; class folders or --labels would give them"]
    (line,) = said(None)
    assert "from labels of picture book (" in line
    assert line.count(",") == 5 + 1, "five names and what stands for the others"


def test_one_class_in_an_array_is_said():
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
    assert "one class alone" in said(ArraySource(images, np.zeros(12, dtype=np.int64)))[0]


@pytest.mark.parametrize(("rows", "parts"), [(8, ["8 of the images", "2 from"]), (4, ["4 of the images", "1 from"])])
def test_classes_of_a_file_are_those_of_its_images(photos, rows, parts):
    names = [FolderSource(photos).item_name(index) for index in range(24)]
    table = photos / "labels.csv"
    cells = [f"{names[at]},{'ab'[at >= 4]}" for at in range(rows)]
    table.write_text("\n".join(["path,label", *cells]))
    (line,) = said(photos, labels=str(table))
    assert f"from {table} (a" in line
    assert all(part in line for part in parts)


def test_left_out_images_are_counted(photos):
    lines = said(photos, exclude=("cats/roll0", "dogs/roll1"))
    assert lines[0] == "8 of 24 images left out by --include, --exclude"


def test_exclusion_holds_for_the_test_folder_too(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "test")
    options = {"test": str(tmp_path / "test"), "batch_size": 4, "epochs": None, "steps": 1}
    images = open_images(photos, Config(exclude=("*/0?.jpg",), **options))
    assert [len(images.source), len(images.held_out)] == [14, 14]
    images = open_images(photos, Config(include=("cats", "dogs/*"), **options))
    assert len(images.held_out) == 24


def test_copies_among_the_held_out_images_are_reported(photos, tmp_path):
    assert not any("byte for byte" in line for line in said(photos))
    test = tmp_path / "test"
    shutil.copytree(photos, test)
    for number, path in enumerate(sorted(test.rglob("*.jpg"))[3:]):
        path.write_bytes(path.read_bytes() + bytes([number]))
    (line,) = (line for line in said(photos, test=str(test)) if "byte for byte" in line)
    assert line.startswith("3 of 24 held-out images are learnt from too, byte for byte (cats/")
    copies = np.zeros((16, 9, 9, 3), dtype=np.uint8)
    arrays = tmp_path / "set.npz"
    np.savez(arrays, images=copies, labels=np.arange(16) % 2)
    assert any("4 of 4 held-out images" in line for line in said(arrays))
