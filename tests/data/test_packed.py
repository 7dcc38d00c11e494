"""A pack gives back what the folder gives: images, names, classes; a pack that is not right says what to do."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import moco
from moco.data.decode import DamagedImage
from moco.data.folder import FolderSource
from moco.data.labels import with_labels
from moco.data.pack_format import DATA, INDEX, META, NAMES, ROW, is_pack
from moco.data.packed import PackedSource
from moco.data.source import open_source
from moco.errors import DataError


@pytest.fixture
def packs(photos, tmp_path):
    """Packs of one folder by format."""
    for kind in ("jpeg", "raw"):
        moco.pack(photos, out=tmp_path / kind, format=kind, quiet=True)
    return {kind: tmp_path / kind for kind in ("jpeg", "raw")}


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_a_pack_gives_what_the_folder_gives(kind, packs, photos):
    """Small JPEG files keep their own bytes, and raw ones their pixels."""
    folder, (pack, test) = FolderSource(photos), open_source(packs[kind])
    assert isinstance(pack, PackedSource)
    assert test is None
    assert len(pack) == len(folder) == 24
    assert pack.class_names == folder.class_names == ("cats", "dogs")
    np.testing.assert_array_equal(pack.labels, folder.labels)
    for index in range(24):
        assert pack.item_name(index) == folder.item_name(index)
        np.testing.assert_array_equal(pack.pixels(index), folder.pixels(index))
        if kind == "jpeg":
            assert pack.record(index) == folder.path(index).read_bytes()
    np.testing.assert_array_equal(pack.shapes(np.arange(24)), folder.shapes(np.arange(24)))
    assert pack.decoded is (kind == "raw")
    with pytest.raises(IndexError):
        pack.pixels(24)


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_a_subset_of_a_pack_gives_its_members(kind, packs):
    pack = PackedSource(packs[kind])
    part = pack.subset([5, 2, 20]).subset([2, 0])
    assert [part.item_name(index) for index in range(2)] == [pack.item_name(20), pack.item_name(5)]
    np.testing.assert_array_equal(part.pixels(1), pack.pixels(5))
    np.testing.assert_array_equal(part.shapes(np.array([1])), pack.shapes(np.array([5])))


def test_raw_images_of_one_size_tell_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 20, 30, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    moco.pack(tmp_path / "images", out=tmp_path / "raw", format="raw", quiet=True)
    pack = PackedSource(tmp_path / "raw")
    np.testing.assert_array_equal(list(pack), pixels)
    assert pack.uniform_shape == pack.subset([3, 5]).uniform_shape == (20, 30)
    moco.pack(tmp_path / "images", out=tmp_path / "jpeg", quiet=True)
    assert PackedSource(tmp_path / "jpeg").uniform_shape is None


def test_different_sizes_have_no_one_shape(packs):
    assert PackedSource(packs["raw"]).uniform_shape is None


def test_reduced_shapes_are_those_of_the_decoded_images(tmp_path):
    (tmp_path / "images").mkdir()
    for number, size in enumerate([(250, 240), (90, 100), (61, 33)]):
        Image.new("RGB", size, "teal").save(tmp_path / "images" / f"{number}.jpg")
    moco.pack(tmp_path / "images", out=tmp_path / "pack", quiet=True)
    pack = PackedSource(tmp_path / "pack")
    for min_side in (None, 20, 45, 130):
        expected = [pack.pixels(index, min_side=min_side).shape[:2] for index in range(3)]
        assert pack.shapes(np.arange(3), min_side=min_side).tolist() == [list(shape) for shape in expected]


def test_labels_may_come_from_a_table(packs, photos):
    (photos.parent / "labels.csv").write_text("path,label\nphotos/cats/roll0/00.jpg,old\ndogs/roll1/01.jpg,new\n")
    labelled = with_labels(PackedSource(packs["jpeg"]), photos.parent / "labels.csv")
    labels, names = labelled.labels, labelled.class_names
    assert names == ("new", "old")
    assert np.count_nonzero(labels >= 0) == 2


def broken(path, how):
    if how == "cut":
        os.truncate(path / DATA, (path / DATA).stat().st_size - 1)
    elif how == "long":
        with (path / DATA).open("ab") as file:
            file.write(b"x")
    elif how == "no table":
        (path / INDEX).unlink()
    elif how == "cut table":
        os.truncate(path / INDEX, ROW.itemsize)
    elif how == "no names":
        (path / NAMES).unlink()
    else:
        meta = json.loads((path / META).read_text())
        meta["version"] = 99
        (path / META).write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "cut",
            "data.bin has .* bytes, expected .* so the pack is not whole: make it again with moco pack .*--replace",
        ),
        ("long", "data.bin has"),
        ("no table", "index.bin is missing, expected 960 bytes"),
        ("cut table", "index.bin has 40 bytes, expected 960 bytes"),
        ("no names", "names.bin is missing"),
        ("version", "a pack of version 99, readable here is version 1: make it again with moco pack .*--replace"),
    ],
)
def test_a_pack_that_is_not_right_says_what_to_do(packs, how, message):
    broken(packs["jpeg"], how)
    with pytest.raises(DataError, match=message) as caught:
        open_source(packs["jpeg"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "moco-pack"',
        '{"kind": "moco-pack", "version": 1}',
        '{"kind": "moco-pack", "version": 1, "options": 3, "fingerprint": {}, "class_names": [], "shape": null}',
    ],
)
def test_a_description_that_cannot_be_read_says_so(packs, text):
    (packs["jpeg"] / META).write_text(text)
    assert is_pack(packs["jpeg"])
    with pytest.raises(DataError, match="meta.json cannot be read .*--replace"):
        open_source(packs["jpeg"])


@pytest.mark.parametrize("change", ["new", "gone", "renamed"])
def test_a_source_that_has_changed_is_told_at_opening(packs, photos, change):
    file = photos / "dogs" / "roll1" / "07.jpg"
    if change == "new":
        Image.new("RGB", (9, 9)).save(file.with_name("new.jpg"))
    elif change == "gone":
        file.unlink()
    else:
        file.rename(file.with_name("other.jpg"))
    with pytest.raises(DataError, match="photos has changed since it was packed: make it again.*--detach"):
        open_source(packs["jpeg"])


def test_what_is_no_change_is_no_reason(packs, photos):
    """A stray file, a touched folder, and a source that is gone altogether."""
    (photos / "cats" / "more notes.txt").write_text("not an image")
    os.utime(photos / "dogs", (1, 1))
    assert len(open_source(packs["jpeg"])[0]) == 24
    photos.rename(photos.with_name("elsewhere"))
    assert len(open_source(packs["jpeg"])[0]) == 24


def test_a_source_without_images_has_changed(packs, photos):
    for path in photos.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="has changed since it was packed"):
        open_source(packs["jpeg"])


def test_a_damaged_record_is_a_damaged_image(packs):
    pack = PackedSource(packs["jpeg"])
    with (packs["jpeg"] / DATA).open("r+b") as file:
        file.write(bytes(200))
    with pytest.raises(DamagedImage, match="cats/roll0/00.jpg: not an image"):
        pack.pixels(0)


def test_an_interrupted_pack_is_not_taken_for_images(packs, photos):
    meta = packs["jpeg"] / META
    meta.write_text(meta.read_text().replace('"complete": true', '"complete": false'))
    partial = packs["jpeg"].rename(packs["jpeg"].with_name("mine.partial"))
    with pytest.raises(DataError, match=f"go on with moco pack {photos} --out .*/mine$"):
        open_source(partial)
    with pytest.raises(DataError, match="mine: not made yet, an interrupted pack lies in .*mine.partial"):
        open_source(partial.with_name("mine"))
