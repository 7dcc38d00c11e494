"""Folders that look like annotations, parts of a data set or single images are questioned; others are not."""

from __future__ import annotations

import numpy as np
import pytest

from moco.data.folder import FolderSource
from moco.data.layout import doubts

CASES = {
    "classes": (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"], []),
    "class names that only resemble": (["light/1.jpg", "light/2.jpg", "parts/1.jpg", "parts/2.jpg"], []),
    "no folders": (["1.jpg", "2.jpg"], []),
    "annotations alone": (["masks/1.png", "masks/2.png"], []),
    "images and masks": (
        ["images/1.jpg", "images/2.jpg", "masks/1.png", "masks/2.png"],
        ["2 of the images lie in folders called like annotations (masks)", "--exclude masks", "is 'images' a class"],
    ),
    "CamVid": (
        ["train/1.png", "train/2.png", "trainannot/1.png", "trainannot/2.png", "val/3.png", "val/4.png"],
        ["(trainannot)", "--exclude trainannot", "train, val: parts", "taken for classes", "give /d/train"],
    ),
    "masks below": (
        ["a/1.jpg", "a/2.jpg", "a/gt/1.png", "b/1.jpg", "b/2.jpg", "b/gt/1.png"],
        ["(a/gt, b/gt)", "--exclude '**/gt'"],
    ),
    "parts with classes": (
        ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg"],
        ["train, val: parts of a data set", "all are learnt from: ", "give /d/train with --test /d/val"],
    ),
    "one part with classes": (["train/cat/1.jpg", "train/dog/1.jpg"], ["train: parts", "give /d/train"]),
    "one part": (["train/1.jpg", "train/2.jpg"], []),
    "one image each": (
        ["a/1.jpg", "b/1.jpg", "c/1.jpg", "d/1.jpg", "d/2.jpg"],
        ["3 of 4 classes have one image only", "--labels", "--knn-evaluations 0"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_doubts(case):
    names, expected = CASES[case]
    said = list(doubts(FolderSource.from_names("/d", (name.encode() for name in names))))
    assert bool(said) is bool(expected)
    assert all(part in "; ".join(said) for part in expected), said
    assert not any("\n" in line for line in said)


def test_without_labels_nothing_is_said_of_classes():
    source = FolderSource.from_names("/d", [b"a/1.jpg", b"b/1.jpg"])
    assert list(doubts(source))
    assert not list(doubts(source.with_labels(None, ())))
    assert not list(doubts(source.with_labels(np.array([-1, -1]), ())))
