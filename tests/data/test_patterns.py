"""Patterns choose files of a folder, and with them its classes."""

from __future__ import annotations

import numpy as np
import pytest

from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.patterns import check_patterns, matching
from moco.errors import DataError

NAMES = ("cover.png", "cat/a.jpg", "cat/a_mask.png", "cat/masks/b.png", "dog/c.jpg", "dog/[x].jpg")


def folder() -> FolderSource:
    return FolderSource.from_names("/nowhere/photos", (name.encode() for name in NAMES))


def names(source: FolderSource) -> list[str]:
    return [source.item_name(index) for index in range(len(source))]


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ([], [], "012345"),
        (["*.jpg"], [], "145"),
        (["cat/*"], [], "123"),
        (["cat"], ["masks"], "123"),
        (["**/cat"], [], "123"),
        ([], ["cat/masks"], "01245"),
        ([], ["**/masks"], "01245"),
        ([], ["**/masks/**"], "01245"),
        ([], ["*_mask.png", "cover.png"], "1345"),
        (["cat/", "dog/c*"], ["*.png"], "14"),
        (["dog/[[]x].jpg"], [], "5"),
        (["CAT/*", "dog"], [], "45"),
        ([], ["c?t/*"], "045"),
    ],
)
def test_what_patterns_leave(include, exclude, left):
    assert names(matching(folder(), include, exclude)) == [NAMES[int(at)] for at in left]


def test_classes_are_those_of_the_folders_that_are_left():
    assert folder().labels is None, "an image beside the class folders"
    left = matching(folder(), [], ["cover.png"])
    assert left.class_names == ("cat", "dog")
    assert left.labels.tolist() == [0, 0, 0, 1, 1]
    assert left.path(3).as_posix() == "/nowhere/photos/dog/c.jpg"
    assert matching(folder(), ["cat"], []).labels is None


def test_what_patterns_cannot_do_is_refused():
    with pytest.raises(DataError, match="leave none of 6 images of photos, such as cover.png"):
        matching(folder(), ["cat"], ["cat"])
    with pytest.raises(DataError, match="include, exclude with array: they choose files of a folder"):
        matching(ArraySource(np.zeros((4, 8, 8, 3), dtype=np.uint8)), ["*"], [])
    check_patterns(folder(), ["cat", "*.png"])
    with pytest.raises(DataError, match="'cats' fits none of 6 images of photos"):
        check_patterns(folder(), ["cat", "cats"])
