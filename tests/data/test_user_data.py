"""Whatever a user holds images in becomes a source: equal pixels, labels where they are cheap, clear refusals."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset
from torchvision.transforms import v2

from moco.data.decode import DamagedImage
from moco.data.folder import FolderSource
from moco.data.source import open_source
from moco.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)


class Items(Dataset):
    """A user's own data set: whatever `make` does of the pixels is an item."""

    def __init__(self, make, **attributes):
        self.make, self.images = make, PIXELS
        vars(self).update(attributes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.make(self.images[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PIXELS)


def pair(pixels):
    return Image.fromarray(pixels), 1


def chw(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def of_dict(pixels):
    return {"label": 0, "image": Image.fromarray(pixels)}


ITEMS = {
    "PIL": Image.fromarray,
    "pair": pair,
    "dict": of_dict,
    "img": lambda pixels: {"img": Image.fromarray(pixels), "label": 0},
    "array": lambda pixels: pixels,
    "tensor": chw,
    "tensor pair": lambda pixels: (chw(pixels), torch.tensor(3)),
    "float tensor": lambda pixels: v2.functional.to_dtype(chw(pixels), torch.float32, scale=True),
    "alpha": lambda pixels: Image.fromarray(np.dstack([pixels, pixels[..., 0]])),
}


def test_every_kind_of_item_gives_the_same_pixels():
    for name, make in ITEMS.items():
        source, test = open_source(Items(make))
        assert test is None
        assert (len(source), source.labels, source.uniform_shape) == (6, None, None), name
        for index in range(6):
            np.testing.assert_array_equal(source[index], PIXELS[index], err_msg=name)
        assert source.subset([4, 2]).item_name(1) == "Items[2]"


def test_grey_items_are_repeated_over_the_channels():
    for make in (lambda p: p[..., 0], lambda p: p[..., :1], lambda p: chw(p)[:1], lambda p: Image.fromarray(p[..., 0])):
        np.testing.assert_array_equal(open_source(Items(make))[0][1], np.repeat(PIXELS[1, ..., :1], 3, axis=2))


def test_labels_come_from_the_data_set_and_no_image_is_read_for_them():
    read = []

    def make(pixels):
        read.append(1)
        return pair(pixels)

    data = Items(make, targets=[0, 1, 2, 0, 1, 2], classes=["owl", "cat", "dog"])
    source, _ = open_source(data)
    assert len(read) == 1, "only the first item, to see that it is an image"
    assert (source.labels.tolist(), source.class_names) == ([0, 1, 2, 0, 1, 2], ("owl", "cat", "dog"))
    part, _ = open_source(Subset(Subset(data, [5, 3, 1]), [2, 0]))
    assert (part.labels.tolist(), part.class_names) == ([1, 2], ("owl", "cat", "dog"))
    np.testing.assert_array_equal(part[0], PIXELS[1])


@pytest.fixture
def classes(tmp_path):
    """A folder of six PNG files of two classes."""
    for index, pixels in enumerate(PIXELS):
        path = tmp_path / "set" / ("cats", "dogs")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "set"


def test_image_folders_of_torchvision_are_their_files(classes):
    source, _ = open_source(torchvision.datasets.ImageFolder(classes))
    assert isinstance(source, FolderSource), "so its decoded images can be kept"
    assert (source.labels.tolist(), source.class_names) == ([0, 0, 0, 1, 1, 1], ("cats", "dogs"))
    np.testing.assert_array_equal(source[3], PIXELS[1])
    assert source.item_name(3) == "dogs/1.png"


def test_a_data_sets_own_transform_is_kept(classes):
    flip = v2.RandomHorizontalFlip(p=1.0)
    source, _ = open_source(torchvision.datasets.ImageFolder(classes, transform=v2.Compose([flip, v2.ToImage()])))
    assert (source.labels.tolist(), source.class_names) == ([0, 0, 0, 1, 1, 1], ("cats", "dogs"))
    np.testing.assert_array_equal(source[0], PIXELS[0, :, ::-1])


def test_torchvisions_arrays_are_used_whole_unless_a_transform_stands_between():
    fake = torchvision.datasets.CIFAR10.__new__(torchvision.datasets.CIFAR10)
    vars(fake).update(data=PIXELS, targets=[0] * 6, transform=None, transforms=None, target_transform=None)
    assert open_source(fake)[0].uniform_shape is not None
    fake.transform = v2.RandomVerticalFlip(p=1.0)
    source, _ = open_source(fake)
    assert source.uniform_shape is None
    np.testing.assert_array_equal(source[0], PIXELS[0, ::-1])


def test_lists_of_paths_and_of_images(classes):
    paths = sorted(classes.rglob("*.png"), key=lambda path: path.name)
    for data in (paths, [str(path) for path in paths], tuple(paths)):
        source, _ = open_source(data)
        assert (source.labels.tolist(), source.class_names) == ([0, 1] * 3, ("cats", "dogs"))
        np.testing.assert_array_equal(source[5], PIXELS[5])
    source, _ = open_source([Image.open(path) for path in paths])
    np.testing.assert_array_equal(source[5], PIXELS[5])
    assert source.item_name(5) == "list[5]"


def test_several_folders_are_one_with_the_classes_of_all(classes, tmp_path):
    other = tmp_path / "elsewhere" / "more"
    for name in ("ants", "dogs"):
        (other / name).mkdir(parents=True)
        Image.fromarray(PIXELS[0]).save(other / name / "0.png")
    source, test = open_source([classes, str(other)])
    assert (len(source), test, source.class_names) == (8, None, ("ants", "cats", "dogs"))
    assert source.labels.tolist() == [1, 1, 1, 2, 2, 2, 0, 2]
    np.testing.assert_array_equal(source[6], PIXELS[0])
    assert source.item_name(7) == "elsewhere/more/dogs/0.png"
    unlabelled, _ = open_source([classes / "cats", other])
    assert (len(unlabelled), unlabelled.labels) == (5, None)
    with pytest.raises(DataError, match="twice"):
        open_source([classes, classes / "cats"])


def test_tensors_of_bytes_and_of_fractions():
    bytes_NCHW = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    for data in (bytes_NCHW, bytes_NCHW / 255, (bytes_NCHW / 255).double().requires_grad_()):
        np.testing.assert_array_equal(list(open_source(data)[0]), PIXELS)
    halves, _ = open_source(torch.full((2, 3, 4, 4), 0.5))
    assert np.all(halves[0] == 128)
    for data in (
        normalised(PIXELS[0])[None],
        bytes_NCHW.float(),
        torch.full((2, 3, 4, 4), float("nan")),
    ):
        with pytest.raises(DataError, match="uint8"):
            open_source(data)


def test_hugging_face_data_sets():
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "photo": datasets.Image(),
            "kind": datasets.ClassLabel(names=["owl", "cat", "dog"]),
        }
    )
    rows = {"id": list(range(6)), "photo": [Image.fromarray(p) for p in PIXELS], "kind": [0, 1, 2, -1, 1, 0]}
    data = datasets.Dataset.from_dict(rows, features=features)
    undecoded = data.cast_column("photo", datasets.Image(decode=False))
    for given in (data, data.with_format("torch"), undecoded):
        source, _ = open_source(given)
        assert (source.labels.tolist(), source.class_names) == (rows["kind"], ("owl", "cat", "dog"))
        for index in range(6):
            np.testing.assert_array_equal(source[index], PIXELS[index])
    shuffled, _ = open_source(data.select([4, 2, 0]))
    assert shuffled.labels.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shuffled))[1], PIXELS[2])
    with pytest.raises(DataError, match="train"):
        open_source(datasets.DatasetDict(train=data))
    with pytest.raises(DataError, match="map-style"):
        open_source(data.to_iterable_dataset())
    with pytest.raises(DataError, match="item 0"):
        open_source(data.remove_columns("photo"))


def normalised(pixels):
    return v2.functional.normalize(chw(pixels) / 255, [0.5] * 3, [0.25] * 3)


REFUSED = {
    "text": (Items(lambda pixels: {"text": "owl"}), "item 0 of Items .*dict of text"),
    "numbers": ([3, 4, 5], "item 0 of list .*int"),
    "another type": (Items(lambda pixels: pixels.astype(np.int32)), "item 0 .*int32"),
    "another shape": (Items(lambda pixels: pixels[None]), "item 0 .*shape"),
    "features": (Items(lambda pixels: torch.rand(512)), "item 0 .*512"),
    "normalised": (Items(normalised), "Normalize"),
    "two views": (Items(lambda pixels: [chw(pixels), chw(pixels)]), "transform="),
    "views and label": (Items(lambda pixels: ([chw(pixels), chw(pixels)], 0)), "item 0 .*list"),
    "broken": (Items(lambda pixels: 1 / 0), "none of its first 6 items .*ZeroDivisionError"),
    "a stream": (Stream(), "map-style"),
    "a generator": ((image for image in PIXELS), "generator"),
    "nothing in it": ([], "empty"),
    "one image": ([Image.fromarray(PIXELS[0])], "at least 2"),
    "no such files": (["no/such/a.jpg", "no/such/b.jpg"], "none of 2"),
    "a number": (3, "int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_images_is_refused_before_training_in_one_line(name):
    data, named = REFUSED[name]
    with pytest.raises(DataError, match=named) as caught:
        open_source(data)
    assert "\n" not in str(caught.value)


def test_a_single_broken_item_is_damaged_and_not_the_data_set():
    def make(pixels):
        if pixels[0, 0, 0] in (PIXELS[0, 0, 0, 0], PIXELS[3, 0, 0, 0]):
            raise OSError("image file is truncated")
        return pair(pixels)

    source, _ = open_source(Items(make))
    np.testing.assert_array_equal(source[1], PIXELS[1])
    with pytest.raises(DamagedImage, match=r"Items\[3\]: image file is truncated"):
        source.pixels(3)


def test_a_user_object_with_a_bytes_column_reads_like_files():
    def encoded(pixels):
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        return {"image": {"bytes": file.getvalue(), "path": None}}

    np.testing.assert_array_equal(open_source(Items(encoded))[0][2], PIXELS[2])


def test_sources_go_to_worker_processes(classes):
    """Pickled, as where workers are not forked."""
    paths = sorted(classes.rglob("*.png"), key=lambda path: path.name)
    opened = [Image.open(path) for path in paths]
    for data in (Items(pair), paths, opened, torch.from_numpy(PIXELS).permute(0, 3, 1, 2)):
        source, _ = open_source(data)
        np.testing.assert_array_equal(list(pickle.loads(pickle.dumps(source))), PIXELS)
