"""Who is learnt from and who is asked: labels that are not known, classes that only one side has."""

from __future__ import annotations

import shutil

import pytest

from moco.errors import DataError
from moco.evaluation.settings import Settings
from moco.evaluation.task import make_task, open_sources


def task(root, *, test=True, labels=None):
    settings = Settings(
        train=str(root / "train"),
        test=str(root / "test") if test else None,
        labels=None if labels is None else str(labels),
        quiet=True,
    )
    return make_task(open_sources(settings), settings, image_size=16)


@pytest.fixture
def copied(coloured, tmp_path):
    return shutil.copytree(coloured, tmp_path / "data")


def test_a_class_whose_train_images_are_all_damaged_cannot_be_asked_for(copied):
    for path in (copied / "train" / "red").glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no train image of 1 class\(es\) that the test images have \(red\)"):
        task(copied)


def test_a_class_that_is_not_asked_for_is_said(copied):
    shutil.rmtree(copied / "test" / "red")
    assert task(copied).notes == ("no test image of 1 class(es): red",)


@pytest.mark.parametrize("column", ["label", "labels"])
def test_images_of_unknown_class_are_on_neither_side(copied, column):
    images = sorted((copied / "train").rglob("*.png"))
    named = [path for number, path in enumerate(images) if number % 2]
    rows = [f"path,{column}", *(f"{path},{path.parent.name}" for path in named)]
    (copied / "labels.csv").write_text("\n".join(rows))
    found = task(copied, test=False, labels=copied / "labels.csv")
    taken = [part.source.item_name(i) for part in (found.train, found.test) for i in range(len(part))]
    assert len(found.test) > 0
    assert set(taken) <= {path.relative_to(copied / "train").as_posix() for path in named}
    assert len(taken) == len(set(taken)) == 30
    for part in (found.train, found.test):
        assert (part.targets >= 0).all(), "neither -1 nor NaN"
    assert "30 images without a label are left out" in found.notes


def test_one_class_folder_is_no_set_of_classes(copied):
    for name in ("blue", "green"):
        shutil.rmtree(copied / "train" / name)
    with pytest.raises(DataError, match=r"train has one class folder only \(red\): give the folder that holds"):
        task(copied, test=False)
