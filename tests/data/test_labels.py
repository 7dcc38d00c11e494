"""A CSV file of paths and classes, written in any of the usual ways, labels exactly the images it names."""

import numpy as np
import pytest
from PIL import Image

from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.labels import with_labels
from moco.errors import DataError

FILES = ("a/1.png", "a/2.png", "b/1.png", "c 3.png", "ü,4.png")


def read_labels(path, source):
    labelled = with_labels(source, path)
    return labelled.labels, labelled.class_names


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return FolderSource(tmp_path / "images")


@pytest.fixture
def read(folder, tmp_path):
    """Labels of FILES, by name, as the text of a CSV file gives them."""

    def reader(text, encoding="utf-8", at="labels.csv"):
        path = tmp_path / at
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        labels, class_names = read_labels(path, folder)
        return {folder.item_name(i): class_names[labels[i]] for i in range(5) if labels[i] >= 0}

    return reader


def test_header_names_the_columns_in_any_order(read):
    expected = {"a/1.png": "cat", "b/1.png": "dog"}
    assert read("path,label\na/1.png,cat\nb/1.png,dog\n") == expected
    assert read("id,label,path\n7,cat,a/1.png\n8,dog,b/1.png\n") == expected
    assert read("Filename;Class\na/1.png;cat\nb/1.png;dog\n") == expected
    assert read("path\tlabel\na/1.png\tcat\nb/1.png\tdog\n") == expected
    assert read("a/1.png,cat\nb/1.png,dog\n") == expected


def test_quotes_byte_order_mark_line_ends_and_blank_lines(read):
    text = 'path,label\r\n"ü,4.png","a ""b"", c"\r\n\r\n c 3.png , x \r\n'
    expected = {"ü,4.png": 'a "b", c', "c 3.png": "x"}
    assert read(text) == expected
    assert read(text, encoding="utf-8-sig") == expected


def test_paths_may_be_absolute_or_relative_to_either_folder_or_bare(read, tmp_path):
    for path in (tmp_path / "images" / "a/2.png", "images/a/2.png", "./a//2.png", "a\\2.png", "2.png", "x/../a/2.png"):
        assert read(f"path,label\n{path},cat\n") == {"a/2.png": "cat"}, path
    (tmp_path / "elsewhere").mkdir()
    assert read("../images/a/2.png,cat\n", at="elsewhere/labels.csv") == {"a/2.png": "cat"}


def test_a_bare_name_that_several_images_share_matches_none(read):
    assert read("1.png,cat\n2.png,dog\n") == {"a/2.png": "dog"}


def test_folder_reached_through_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "images")
    (tmp_path / "labels.csv").write_text(
        f"{tmp_path / 'images' / 'b/1.png'},cat\n{tmp_path / 'link' / 'a/1.png'},dog\n"
    )
    labels, class_names = read_labels(tmp_path / "labels.csv", FolderSource(tmp_path / "link"))
    assert class_names == ("cat", "dog")
    assert sorted(labels) == [-1, -1, -1, 0, 1]


def test_numbers_are_sorted_as_numbers_and_empty_labels_are_unknown(folder, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("a/1.png,10\na/2.png,9\nb/1.png,\nc 3.png,100\n")
    labels, class_names = read_labels(path, folder)
    assert class_names == ("9", "10", "100")
    by_name = {folder.item_name(i): int(labels[i]) for i in range(5)}
    assert by_name == {"a/1.png": 1, "a/2.png": 0, "b/1.png": -1, "c 3.png": 2, "ü,4.png": -1}


def test_repeated_rows_must_agree(read):
    assert read("a/1.png,cat\n./a/1.png,cat\n") == {"a/1.png": "cat"}
    with pytest.raises(DataError, match=r"a/1\.png is labelled both 'cat' and 'dog'"):
        read("a/1.png,cat\nimages/a/1.png,dog\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\nz/9.png,cat\n", r"none of its 1 paths .* it says 'z/9\.png', the images are called like '\S"),
        ("path,name\na/1.png,cat\n", "names a path column and no label column: path, name"),
        ("id,label\na/1.png,cat\n", "names a label column and no path column"),
        ("path,label\na/1.png,cat\na/2.png\n", r"line 3: 1 column\(s\)"),
        ("a/1.png\n", r"line 1: 1 column\(s\)"),
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("path,label\n", "a header and no rows"),
        ("a/1.png,\n", "every label is empty"),
        ('path,label\n"a/1.png,cat\n', "not a CSV file"),
        ("ü,4.png,cat\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_other_files_are_refused(read, text, words):
    with pytest.raises(DataError, match=words) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "gone.csv", folder)
    with pytest.raises(DataError, match="not a file"):
        read_labels(tmp_path, folder)


def test_array_elements_can_be_named_too(tmp_path):
    source = ArraySource(np.zeros((3, 4, 4, 3), dtype=np.uint8), name="mine")
    (tmp_path / "labels.csv").write_text("mine[2],b\nmine[0],a\n")
    labels, class_names = read_labels(tmp_path / "labels.csv", source)
    np.testing.assert_array_equal(labels, [0, -1, 1])
    assert class_names == ("a", "b")


def test_rows_that_match_nothing_and_a_single_class_are_said(folder, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,label\na/1.png,cat\n" + "".join(f"gone/{number}.png,dog\n" for number in range(9)))
    said = with_labels(folder, path).remarks
    assert len(said) == 2
    assert said[0].startswith(f"{path}: 9 of its 10 rows name no image of images, the first is 'gone/0.png'")
    assert said[1].startswith(f"{path}: one class only, 'cat': ")
    path.write_text("a/1.png,cat\na/2.png,dog\n")
    assert not with_labels(folder, path).remarks
