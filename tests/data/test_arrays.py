"""Arrays of every accepted layout show the same pictures; nothing is copied; the rest is refused with a cure."""

import tracemalloc

import numpy as np
import pytest

from moco.data.arrays import ArraySource
from moco.data.base import Source
from moco.data.source import open_source
from moco.errors import DataError
from tests.real_data import cifar10


def pictures(count=6, height=5, width=7, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


LAYOUTS = {
    "N H W": lambda x: x[..., 0],
    "N H W 1": lambda x: x[..., :1],
    "N H W 3": lambda x: x,
    "N H W 4": lambda x: np.concatenate([x, x[..., :1]], axis=-1),
    "N 1 H W": lambda x: x[..., :1].transpose(0, 3, 1, 2),
    "N 3 H W": lambda x: x.transpose(0, 3, 1, 2),
}


@pytest.mark.parametrize("stored", ["memory", "npy", "npz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_shows_the_same_pictures(tmp_path, layout, stored):
    images = pictures()
    given = LAYOUTS[layout](images)
    expected = given if "4" in layout else images if "3" in layout else np.repeat(images[..., :1], 3, axis=-1)
    data = given
    if stored == "npy":
        data = tmp_path / "images.npy"
        np.save(data, given)
    elif stored == "npz":
        data = tmp_path / "images.npz"
        np.savez(data, images=given)
    source, test = open_source(data)
    assert isinstance(source, Source)
    assert (len(source), test, source.labels) == (6, None, None)
    np.testing.assert_array_equal(list(source), expected)
    assert source[0].dtype == np.uint8
    assert source.uniform_shape == expected.shape[1:3]


def test_nothing_is_copied():
    for layout in LAYOUTS.values():
        given = np.ascontiguousarray(layout(pictures()))
        assert np.shares_memory(ArraySource(given)[0], given)


def test_npy_is_mapped_not_loaded(tmp_path):
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(1000, 64, 64, 3)).flush()
    tracemalloc.start()
    try:
        source, _ = open_source(path)
        source.pixels(999)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 12_000_000
    assert peak < 1_000_000


def test_subset_shows_its_members():
    images, labels = pictures(10), np.arange(10)
    source = ArraySource(images, labels, name="mine")
    run, scattered = source.subset([3, 4, 5]), source.subset([9, 1, 1]).subset([2, 0])
    np.testing.assert_array_equal(list(run), images[3:6])
    np.testing.assert_array_equal(list(scattered), images[[1, 9]])
    np.testing.assert_array_equal(list(source.subset([8, 0, 3])), images[[8, 0, 3]])
    np.testing.assert_array_equal(scattered.labels, [1, 9])
    np.testing.assert_array_equal(scattered.pixels(1), images[9])
    assert scattered.item_name(1) == "mine[9]"
    assert len(source.subset([])) == 0
    assert source.uniform_shape == scattered.uniform_shape == (5, 7)
    with pytest.raises(IndexError):
        source.pixels(10)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (pictures() > 127, r"bool array.*\* 255"),
        (pictures()[0, 0], r"array of shape \(7, 3\)"),
        (pictures(count=0), "holds no images"),
        (pictures(height=0), r"array of shape \(6, 0, 7, 3\)"),
        (pictures()[None], r"array of shape \(1, 6, 5, 7, 3\)"),
        (pictures(count=1), "one image only"),
    ],
)
def test_other_arrays_are_refused_with_a_cure(tmp_path, images, words):
    np.save(tmp_path / "x.npy", images)
    for data in (images, tmp_path / "x.npy"):
        with pytest.raises(DataError, match=words):
            open_source(data)


@pytest.mark.parametrize(
    ("images", "top"),
    [
        (pictures() / 255.0, (0.0, 1.0)),
        (pictures().astype(np.uint16) * 257, 65535),
        (pictures().astype(np.uint16), 255),
        (pictures().astype(np.int64), 255),
    ],
)
def test_other_numbers_are_ranged(tmp_path, images, top):
    np.save(tmp_path / "x.npy", images)
    for data in (images, tmp_path / "x.npy"):
        source, _ = open_source(data)
        assert source.value_range == top
        np.testing.assert_array_equal(list(source), pictures())


def test_npz_keys(tmp_path):
    images, labels = pictures(), np.array([0, 1, 2, 0, 1, 2])
    path = tmp_path / "set.npz"
    for image_key, label_key in [
        ("images", "labels"),
        ("x", "y"),
        ("data", "targets"),
        ("train_images", "train_labels"),
    ]:
        np.savez(path, **{"other": np.zeros(3), image_key: images, label_key: labels[:, None]})
        source, test = open_source(path)
        np.testing.assert_array_equal(source.labels, labels)
        assert source.class_names == ("0", "1", "2")
        assert test is None
    np.savez_compressed(path, meta=np.zeros((2, 2)), pixels=images)
    np.testing.assert_array_equal(list(open_source(path)[0]), images)


@pytest.mark.parametrize("keys", [("x_train", "y_train", "x_test", "y_test"), ("images", "labels", "x_test", "y_test")])
def test_npz_with_a_test_part(tmp_path, keys):
    images = pictures()
    arrays_ = dict(zip(keys, (images, np.array(list("aabbcc")), images[:2], np.array(["c", "a"])), strict=True))
    np.savez(tmp_path / "set.npz", **arrays_)
    train, test = open_source(tmp_path / "set.npz")
    assert train.class_names == test.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(test.labels, [2, 0])
    np.testing.assert_array_equal(list(test), images[:2])


def test_array_files_that_are_something_else_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.savez(tmp_path / "none.npz", weights=np.zeros((3, 3)))
    np.savez(tmp_path / "complex.npz", images=pictures() * 1j)
    np.save(tmp_path / "single.npy", pictures())
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    np.savez(tmp_path / "cut.npz", images=pictures(200))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez_compressed(tmp_path / "torn.npz", images=pictures(200))
    whole = (tmp_path / "torn.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[:2000] + bytes(64) + whole[2064:])
    for name, words in {
        "torn.npz": "not a usable NumPy file",
        "text.npy": "not a usable NumPy file",
        "empty.npy": "not a usable NumPy file",
        "text.npz": "not a usable NumPy file",
        "objects.npy": "pickled objects",
        "none.npz": r"no images among its arrays \(weights\)",
        "complex.npz": "complex128 array",
        "single.npz": "call the file .npy",
        "cut.npz": "not a usable NumPy file",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_labels_must_fit_the_images():
    images = pictures()
    np.testing.assert_array_equal(ArraySource(images, [0, -7, 1, -1, 0, 1]).labels, [0, -1, 1, -1, 0, 1])
    for labels, words in [
        ([0, 1], r"labels of shape \(2,\) for 6 images"),
        (np.zeros(6), "labels of type float64"),
        (np.array([0, 1, 2, 3, 4, 10**9]), "label 1000000000"),
    ]:
        with pytest.raises(DataError, match=words):
            ArraySource(images, labels)
    with pytest.raises(DataError, match="there are 2 class names"):
        ArraySource(images, np.arange(6), class_names=("a", "b"))


def test_other_labels_can_be_given():
    source = ArraySource(pictures(), np.zeros(6, dtype=int), class_names=("old",)).subset([0, 1, 2])
    other = source.with_labels(np.array([1, 0, -1]), ("x", "y"))
    np.testing.assert_array_equal(other.labels, [1, 0, -1])
    assert (other.class_names, source.class_names) == (("x", "y"), ("old",))
    assert source.labels.sum() == 0
    with pytest.raises(DataError):
        source.with_labels(np.zeros(6, dtype=int), ("x",))


@pytest.mark.real_data
def test_cifar10_arrays():
    train, train_labels, test, test_labels = cifar10()
    source = ArraySource(train, train_labels, name="cifar10")
    assert (len(source), len(test)) == (50_000, 10_000)
    assert source.uniform_shape == (32, 32)
    np.testing.assert_array_equal(np.bincount(source.labels), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(test_labels), [1000] * 10)
    assert 100 < np.mean([source[index] for index in range(0, 50_000, 100)]) < 140
