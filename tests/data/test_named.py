"""A data set is fetched only when it is named; stand-ins take the place of torchvision's, so no network is used."""

import types
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from moco.data import picturebook
from moco.data.base import Source
from moco.data.decode import DamagedImage
from moco.data.named import BY_HAND, NAMED, wrap_dataset
from moco.data.source import open_source
from moco.errors import DataError


class Standin:
    """Looks like a data set of torchvision that holds an array."""

    opened: ClassVar[list[dict]] = []
    classes: ClassVar[list[str]] = ["plane", "car", "bird"]

    def __init__(self, root, train=True, download=False):
        Standin.opened.append({"root": root, "train": train, "download": download})
        count = 9 if train else 6
        self.data = np.random.default_rng(count).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        self.targets = [index % 3 for index in range(count)]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return Image.fromarray(self.data[index]), self.targets[index]


class Files(torchvision.datasets.FakeData):
    """Looks like a data set of torchvision that reads files."""

    def __init__(self, root, split="train", download=False):
        super().__init__(size=5 if split == "train" else 4, image_size=(3, 6, 8), num_classes=2)
        self._labels = [index % 2 for index in range(self.size)]
        self.classes = [("tench", "Tinca tinca"), ("church",)]

    def __getitem__(self, index):
        if index == 3:
            raise OSError("image file is truncated")
        return super().__getitem__(index)[0].convert("L"), 0


@pytest.fixture(autouse=True)
def no_real_data_sets(monkeypatch):
    Standin.opened.clear()
    for name in NAMED:
        monkeypatch.setattr(torchvision.datasets, name, Standin)
    monkeypatch.setattr(torchvision.datasets, "DTD", Files)


@pytest.mark.parametrize("word", ["CIFAR10", "cifar10", "Cifar10"])
def test_name_in_any_case_gives_both_parts(tmp_path, word):
    train, test = open_source(word, data_root=tmp_path / "sets")
    assert isinstance(train, Source)
    assert (len(train), len(test), train.name) == (9, 6, "CIFAR10")
    np.testing.assert_array_equal(train.labels, np.arange(9) % 3)
    assert train.class_names == ("plane", "car", "bird")
    assert (len(train), train.uniform_shape) == (9, (4, 4))
    assert Standin.opened == [{"root": tmp_path / "sets", "train": part, "download": True} for part in (True, False)]


def test_data_sets_are_stored_in_the_cache_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    open_source("CIFAR100")
    assert Standin.opened[0]["root"] == tmp_path / ".cache" / "moco"


def test_nothing_is_fetched_unless_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    for shade in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / "cifar10" / f"{shade}.png")
    source, test = open_source("cifar10")
    assert (len(source), test) == (2, None)
    with pytest.raises(DataError, match="no such folder or file"):
        open_source("data/CIFAR10")
    with pytest.raises(DataError, match="no such folder or file"):
        open_source(tmp_path / "CIFAR10")
    assert not Standin.opened


def test_nearest_names_are_suggested(tmp_path):
    for word, near in {
        "cifar11": "CIFAR10",
        "CIFAR-10": "CIFAR10",
        "imagenete": "Imagenette",
        "./SVHN": "SVHN",
    }.items():
        with pytest.raises(DataError, match=f"names alone: .*{near}"):
            open_source(word)


def test_data_set_of_files_is_read_item_by_item(tmp_path):
    train, test = open_source("dtd", data_root=tmp_path)
    assert (len(train), len(test)) == (5, 4)
    assert train.uniform_shape is None
    assert train.pixels(1).shape == (6, 8, 3)
    assert train.class_names == ("tench", "church")
    np.testing.assert_array_equal(train.labels, [0, 1, 0, 1, 0])
    assert train.subset([4, 2]).item_name(0) == "DTD[4]"
    with pytest.raises(DamagedImage, match=r"DTD\[3\]: image file is truncated"):
        train.pixels(3)


def test_labels_are_found_wherever_a_data_set_keeps_them():
    images = np.zeros((3, 4, 4), dtype=np.uint8)
    for attributes, labels, names in [
        ({"targets": torch.tensor([2, 0, 1])}, [2, 0, 1], ("0", "1", "2")),
        ({"labels": np.array([0, -1, 1])}, [0, -1, 1], ("0", "1")),
        ({"y": [1, 1, 0], "categories": ["owl", "cat"]}, [1, 1, 0], ("owl", "cat")),
        ({"_samples": [("a", 0), ("b", 1), ("c", 1)]}, [0, 1, 1], ("0", "1")),
        ({}, None, ()),
        ({"targets": [{"box": 1}] * 3}, None, ()),
    ]:
        dataset = types.SimpleNamespace(data=torch.from_numpy(images), **attributes)
        sized = type("Sized", (), {"__len__": lambda self: 3, **vars(dataset)})()
        source = wrap_dataset(sized, name="set")
        assert source.class_names == names
        assert source.labels is None if labels is None else source.labels.tolist() == labels
        assert (len(source), source.uniform_shape) == (3, (4, 4))


def test_failed_download_is_one_clear_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("<urlopen error\n [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(torchvision.datasets, "SVHN", fail)
    with pytest.raises(DataError, match=r"SVHN: not usable in .*name resolution.*check the network") as caught:
        open_source("svhn", data_root=tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(torchvision.datasets, "ImageNet", fail)
    with pytest.raises(DataError, match="put it there by hand"):
        open_source("ImageNet", data_root=tmp_path)


def test_recipes_fit_torchvisions_signatures(monkeypatch):
    monkeypatch.undo()
    import inspect

    for name, parts in NAMED.items():
        signature = inspect.signature(getattr(torchvision.datasets, name).__init__)
        fetch = {} if name in BY_HAND else {"download": True}
        for arguments in filter(None, parts):
            bound = signature.bind(None, "root", **arguments, **fetch)
            loose = set(bound.arguments.get("kwargs", {}))
            assert loose <= {"train", "download"}, name  # EMNIST passes these on to MNIST


def test_nothing_means_the_embedded_picture_book(monkeypatch):
    parts = [picturebook.draw_book(20, seed=seed) for seed in (0, 1)]
    monkeypatch.setattr(picturebook, "splits", lambda: tuple(parts))
    for source, part in zip(open_source(None), parts, strict=True):
        assert source.class_names == picturebook.CLASSES
        np.testing.assert_array_equal(source.labels, part.labels)
        np.testing.assert_array_equal(list(source), part.images)
    assert not Standin.opened
