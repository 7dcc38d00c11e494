"""Any folder is a source: what it finds, in which order, what it costs, and what it refuses."""

import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from moco.data.base import Source
from moco.data.decode import DamagedImage
from moco.data.folder import FolderSource
from moco.data.source import open_source
from moco.errors import DataError
from tests.real_data import imagenette


def save(path, shade=0, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)


def names(source):
    return [source.item_name(index) for index in range(len(source))]


def test_nested_folder_gives_every_image_once_in_sorted_order(tmp_path):
    for name in ("b/z.png", "b/deep/er/a.JPG", "a.png", "c/x.bmp", "b/a.webp"):
        save(tmp_path / name)
    source = FolderSource(tmp_path)
    assert isinstance(source, Source)
    assert names(source) == ["a.png", "b/a.webp", "b/z.png", "b/deep/er/a.JPG", "c/x.bmp"]
    assert source.labels is None
    assert source.class_names == ()
    assert source.uniform_shape is None
    assert source.name == tmp_path.name


def test_index_finds_its_own_pixels(tmp_path):
    for shade in range(12):
        save(tmp_path / f"{shade % 3}" / f"{shade}.png", shade)
    source = FolderSource(tmp_path)
    for index in range(12):
        assert source.pixels(index)[0, 0, 0] == int(source.path(index).stem)
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            source.pixels(outside)


def test_first_level_folders_are_the_classes(tmp_path):
    for name in ("dog/1.png", "cat/1.png", "cat/deep/2.png", "eel/1.png"):
        save(tmp_path / name)
    (tmp_path / "notes").mkdir()
    source = FolderSource(tmp_path)
    assert source.class_names == ("cat", "dog", "eel")
    assert [source.class_names[label] for label in source.labels] == [name.split("/")[0] for name in names(source)]
    assert source.labels.dtype == np.int64


def test_an_image_outside_the_classes_undoes_them_wherever_it_comes():
    for paths in ([b"cat/1.png", b"dog/1.png"], [b"cat/1.png", b"dog/1.png", b"3.png"], [b"3.png", b"cat/1.png"]):
        assert (FolderSource.from_names("/nowhere", paths).labels is None) == (b"3.png" in paths)


@pytest.mark.parametrize(
    "files", [("cat/1.png", "cat/2.png"), ("cat/1.png", "dog/1.png", "stray.png"), ("train/1.png", "Val/1.png")]
)
def test_other_layouts_have_no_classes(tmp_path, files):
    for name in files:
        save(tmp_path / name)
    source = FolderSource(tmp_path)
    assert source.labels is None
    assert source.class_names == ()


def test_other_files_and_hidden_ones_are_passed_over(tmp_path):
    for name in ("a.png", ".hidden.png", ".cache/b.png", "sub/._c.png"):
        save(tmp_path / name)
    for name in ("notes.txt", "sub/more.TXT", "table.csv", "README", ".DS_Store"):
        (tmp_path / name).write_text("x")
    source = FolderSource(tmp_path)
    assert names(source) == ["a.png"]


def test_links_are_followed_and_loops_end(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    save(root / "a" / "1.png")
    save(store / "deep" / "2.png")
    save(root / ".hidden" / "3.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(".")
    (root / "b").symlink_to(store)
    (store / "deep" / "loop").symlink_to(store)
    (store / "back").symlink_to(root)
    (root / "c").symlink_to(root / ".hidden")
    (root / "0").symlink_to(root / "a")  # sorted before its target, and yet not the name that counts
    (root / "d").symlink_to(root / "a")
    (root / "self").symlink_to("self")
    source = FolderSource(root)
    assert names(source) == ["a/1.png", "b/deep/2.png", "c/3.png"]


def test_root_may_be_a_link_and_a_relative_path(tmp_path, monkeypatch):
    save(tmp_path / "real" / "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(FolderSource(tmp_path / "link")) == ["1.png"]
    monkeypatch.chdir(tmp_path / "real")
    source = FolderSource(".")
    assert (names(source), source.name) == (["1.png"], "real")


def test_broken_link_is_a_damaged_image_and_a_pipe_is_ignored(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    source = FolderSource(tmp_path)
    assert names(source) == ["broken.jpg", "good.png"]
    with pytest.raises(DamagedImage, match="No such file"):
        source.pixels(0)


def test_folder_that_cannot_be_listed_is_passed_over_and_told_where_no_image_is_left(tmp_path, monkeypatch):
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "locked" / "2.png")
    scandir = os.scandir

    def refuse(path):
        if os.fsdecode(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = FolderSource(tmp_path)
    assert names(source) == ["a/1.png"]
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(DataError, match="1 folders could not be listed"):
        FolderSource(tmp_path)


def test_names_that_are_not_utf8_can_be_read(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
            Image.new("RGB", (5, 4)).save(file, format="PNG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert FolderSource(tmp_path).pixels(0).shape == (4, 5, 3)


def test_subset_keeps_order_labels_and_files(tmp_path):
    for shade in range(10):
        save(tmp_path / "xy"[shade % 2] / f"{shade}.png", shade)
    source = FolderSource(tmp_path)
    chosen = source.subset([7, 2, 9, 0]).subset(np.array([2, 0]))
    assert names(chosen) == [source.item_name(9), source.item_name(7)]
    np.testing.assert_array_equal(chosen.labels, source.labels[[9, 7]])
    assert chosen.pixels(0)[0, 0, 0] == source.pixels(9)[0, 0, 0]
    assert chosen.class_names == source.class_names
    assert len(source.subset([])) == 0
    for outside in ([10], [-1]):
        with pytest.raises(IndexError):
            source.subset(outside)
    with pytest.raises(IndexError):
        chosen.pixels(2)


def synthetic(count):
    return FolderSource.from_names("/nowhere", (b"class_%03d/image_%08d.jpg" % (i // 1000, i) for i in range(count)))


def test_an_image_costs_its_path_and_a_few_bytes():
    synthetic(10)
    count = 50_000
    tracemalloc.start()
    try:
        source = synthetic(count)
        held, peak = tracemalloc.get_traced_memory()
        part = source.subset(np.arange(count - 1))
        with_part, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    path_length = len(b"class_000/image_00000000.jpg")
    assert held / count < path_length + 8 + 8 + 4  # path, offset, label, allowance
    assert peak / count < 2.5 * (path_length + 24)
    assert (with_part - held) / count < 8 + 8 + 1  # index, label
    assert source.item_name(12_345) == "class_012/image_00012345.jpg"
    assert part.labels[-1] == 49


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jp2", ".avif"])
def test_rarer_extensions_are_images_too(tmp_path, suffix):
    kind = {".jp2": "JPEG2000", ".avif": "AVIF"}.get(suffix, "JPEG")
    if kind not in Image.SAVE and not Image.init() and kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    for number in range(2):
        Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / f"{number}{suffix}", format=kind)
    source, _ = open_source(tmp_path)
    assert not source.remarks
    assert np.abs(source.pixels(1).astype(int) - (200, 100, 50)).max() < 8


def test_what_is_not_read_in_one_of_several_folders_is_said_too(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / folder / "1.png")
    (tmp_path / "b" / "2.dcm").write_bytes(b"x")
    assert open_source([tmp_path / "a", tmp_path / "b"])[0].remarks == (f"{tmp_path / 'b'}: not read: 1 .dcm",)


def test_files_that_are_not_read_are_named_by_kind_and_counted(tmp_path):
    for number in range(3):
        save(tmp_path / "a" / f"{number}.png")
    for name in ("a/1.dcm", "a/2.DCM", "b.raw", "README", "b/3.dcm", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert FolderSource(tmp_path).remarks == (f"{tmp_path}: not read: 3 .dcm, 1 without an extension, 1 .raw",)
    for kind in "abcdefg":
        (tmp_path / f"x.{kind}").write_bytes(b"x")
    assert FolderSource(tmp_path).remarks[0].endswith(": 3 .dcm, 1 without an extension, 1 .a, 1 .b, 1 .c, 5 others")


def test_refusals_say_what_came(tmp_path):
    empty, texts = tmp_path / "empty", tmp_path / "texts"
    empty.mkdir()
    texts.mkdir()
    for name in ("a.txt", "b.txt", "c.csv"):
        (texts / name).write_text("x")
    (tmp_path / "one").mkdir()
    save(tmp_path / "one" / "1.png")
    (tmp_path / "file.bin").write_bytes(b"x")
    (tmp_path / "set.tar.gz").write_bytes(b"x")
    bad = tmp_path / "bad"
    bad.mkdir()
    for number in range(3):
        (bad / f"{number}.jpg").write_bytes(b"")
    for data, words in [
        (empty, "holds no files"),
        (texts, r"no images among 3 files \(2 .txt, 1 .csv\)"),
        (tmp_path / "one", "one image only; expected at least 2"),
        (tmp_path / "file.bin", "a file, not a folder of images"),
        (tmp_path / "set.tar.gz", "unpack it"),
        (tmp_path / "one" / "1.png", "give its folder"),
        (tmp_path / "gone" / "x", r"gone/x: no such folder or file \(.*gone does not exist\)"),
        (bad, r"none of 3 images tried can be read; the first: .*0\.jpg: empty file"),
        (3.5, "data of type float"),
    ]:
        with pytest.raises(DataError, match=words) as caught:
            open_source(data)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="not a folder"):
        FolderSource(tmp_path / "file.bin")


def test_one_readable_image_among_damaged_ones_is_enough(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    save(tmp_path / "5.jpg")
    source, test = open_source(str(tmp_path))
    assert len(source) == 6
    assert test is None


@pytest.mark.real_data
def test_imagenette_is_found_whole():
    source, _ = open_source(imagenette() / "train")
    assert len(source) == 9469
    assert len(source.class_names) == 10
    assert np.bincount(source.labels).min() > 800
    for index in range(0, len(source), 500):
        assert source.pixels(index).shape == (128, 128, 3)
