"""Users' own objects as sources: data sets of PyTorch and Hugging Face, lists of paths, folders or images, tensors."""

from __future__ import annotations

import contextlib
import copy
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from moco.data.arrays import ArraySource
from moco.data.bands import agreed_channels
from moco.data.base import UNKNOWN, RangedSource, Source
from moco.data.bit_depth import Depth, Extent
from moco.data.decode import DamagedImage
from moco.data.folder import FolderSource
from moco.data.item_image import item_layout, item_pixels, scaled_floats
from moco.data.order import ITEMS, keyed_seed, seeded
from moco.errors import DataError

# What `moco.pretrain` takes; a sequence is one of paths, of folders, or of images.
Images = str | os.PathLike[str] | Sequence[Any] | np.ndarray | torch.Tensor | Dataset[Any] | None
_PROBES = 8  # items tried before a data set is called unreadable


class ItemSource(RangedSource):
    """Anything with a length and an index whose items are images, each read when it is needed.

    An item is an image, a pair of image and label, or a dict with "image" or "img". An image is a PIL image, a path, a
    uint8 array (H, W) or (H, W, C), or a tensor (C, H, W), uint8 or float from 0 to 1; a fourth channel is taken for
    alpha unless `in_channels` says otherwise. Labels come from the data set's own list of them, never from its items.

    Args:
        dataset: the object; worker processes get a copy.
        name: what messages call it.

    Raises:
        DataError: no length, no items, or a first item that is no image.
    """

    def __init__(self, dataset: Any, *, name: str) -> None:
        if isinstance(dataset, dict):
            parts = ", ".join(map(str, dataset))
            raise DataError(
                f"{name} of {parts or 'nothing'}: give one of its parts, like data[{next(iter(dataset), '')!r}]"
            )
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            cure = "give a map-style data set, or write the images to a folder"
            raise DataError(f"{name} has no length or no index, as a stream of images: {cure}")
        labels = labels_of(dataset)
        super().__init__(len(dataset), name=name, labels=labels, class_names=class_names_of(dataset, labels))
        self._dataset, self._key = dataset, _column_of(dataset, "Image")
        self._check()

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """One image as the data set gives it, in the channels expected; `min_side` has no effect, but for paths."""
        place = self._place(index)
        try:
            with self._listened(index):
                return item_pixels(self._dataset[place], self._key, min_side, self.depth(index), self.channels)
        except MemoryError:
            raise
        except Exception as error:  # whatever the user's code raises
            reason = getattr(error, "reason", None) or " ".join(str(error).split()) or type(error).__name__
            raise DamagedImage(self.item_name(index), reason) from error

    def in_channels(self, channels: int | None) -> Self:
        """See `Source.in_channels`; the first item that can be read decides."""
        chosen = copy.copy(self)
        first = [("its first item", self._first_layout)]
        chosen.channels, chosen._about_channels = agreed_channels(first, channels, self.name)
        return chosen

    def seems_deep(self) -> bool:
        """Whether the first item that can be read has more than 8 bits."""
        return self._first_is_deep

    def extent(self, index: int) -> Extent | None:
        """See `RangedSource`."""
        found: list[Extent] = []
        with contextlib.suppress(Exception), self.reading(0, index):  # reading it for use says what is wrong
            item_pixels(self._dataset[self._place(index)], self._key, None, Depth(seen=found.append), self.channels)
        return found[0] if found else None

    def reading(self, *key: int) -> AbstractContextManager[None]:
        """The data set's own transform draws from the global generators."""
        return seeded(keyed_seed(key[0], ITEMS, *key[1:]))

    def item_name(self, index: int) -> str:
        """Name and position in the data set."""
        return f"{self.name}[{self._place(index)}]"

    def _check(self) -> None:
        """Refuse a data set whose items are not images; single damaged ones are skipped later."""
        if not len(self):
            raise DataError(f"{self.name} is empty; expected at least 2 images")
        first = None
        for index in range(min(_PROBES, len(self))):
            try:
                with self.reading(0, index):
                    item = self._dataset[index]
            except Exception as error:
                first = first or error
                continue
            seen: list[Extent] = []
            try:
                self._first_layout = item_layout(item, self._key)
                self.channels = self._first_layout.usual if self._first_layout else self.channels
                item_pixels(item, self._key, None, Depth(seen=seen.append), self.channels)
            except (DamagedImage, OSError) as error:
                first = first or error
                continue
            except (TypeError, ValueError) as error:
                raise DataError(f"item {index} of {self.name} is not an image: {error}") from error
            self._first_is_deep = bool(seen)
            return
        reason = " ".join(f"{type(first).__name__}: {first}".split())
        raise DataError(f"{self.name}: none of its first {index + 1} items can be read; the first: {reason}") from first


def adapt(data: Any) -> Source:
    """A user's object as a source: see `Images`.

    Raises:
        DataError: an object of a kind that holds no images.
    """
    name = type(data).__name__
    if isinstance(data, torch.Tensor):
        return _tensor_source(data)
    if isinstance(data, list | tuple):
        return _from_list(data)
    if type(data).__module__.startswith("torchvision.datasets") and _plain(data):
        return wrap_dataset(data, name=name)
    if isinstance(data, Dataset) or hasattr(data, "column_names"):
        return ItemSource(data, name=name)
    expected = "a folder or a list of folders, paths or images, an array, a tensor, a data set or its name"
    raise DataError(f"data of type {name}; expected {expected}, or nothing")


def wrap_dataset(dataset: Any, *, name: str) -> Source:
    """A data set of torchvision without transforms: over its array or its files if it has them, else item by item."""
    data = getattr(dataset, "data", None)
    if data is not None and hasattr(data, "numpy"):  # the MNIST family holds tensors
        data = data.numpy()
    labels = labels_of(dataset)
    if isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim in (3, 4) and len(data) == len(dataset):
        return ArraySource(data, labels, class_names=class_names_of(dataset, labels), name=name)
    if type(dataset).__name__ == "ImageFolder" and dataset.loader.__name__ == "default_loader":
        return _files([path for path, _ in dataset.samples]).with_labels(labels, dataset.classes)
    return ItemSource(dataset, name=name)


def labels_of(dataset: Any) -> np.ndarray | None:
    """The classes, (N,) int64, wherever this data set keeps them without its images; None if nowhere."""
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices, dtype=np.int64)]
    column = _label_column(dataset)
    if column is not None:
        return _whole_numbers(dataset.with_format(None)[column][:])
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None and not callable(values) and len(values) == len(dataset):
            return _whole_numbers(values)
    for attribute in ("samples", "_samples", "imgs"):
        pairs = getattr(dataset, attribute, None)
        if isinstance(pairs, list) and len(pairs) == len(dataset) and pairs and isinstance(pairs[0], tuple):
            return _whole_numbers([pair[1] for pair in pairs])
    return None


def class_names_of(dataset: Any, labels: np.ndarray | None) -> tuple[str, ...]:
    """The data set's own class names if they cover the labels, else the numbers."""
    if labels is None:
        return ()
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    column = _label_column(dataset)
    names = getattr(dataset.features[column], "names", None) if column is not None else None
    names = names or getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or ()
    names = tuple(value[0] if isinstance(value, tuple) else str(value) for value in names)
    count = int(labels.max(initial=UNKNOWN)) + 1
    return names if len(names) >= count else tuple(str(number) for number in range(count))


def join_folders(folders: Sequence[str | os.PathLike[str]]) -> FolderSource:
    """All images of several folders, in that order; classes are those of each folder, united by name.

    Raises:
        DataError: a folder without images, or one inside another.
    """
    paths = [Path(folder).expanduser().resolve() for folder in folders]
    for path in paths:
        if sum(path.is_relative_to(other) for other in paths) > 1:
            raise DataError(f"{path}: it is given twice, or lies in another folder of the list; give each image once")
    parts = [FolderSource(path) for path in paths]
    joined = _files([part.path(index) for part in parts for index in range(len(part))])
    joined = joined.with_labels(None, (), remarks=[line for part in parts for line in part.remarks])
    joined.not_read = dict(sum((Counter(part.not_read) for part in parts), Counter()))
    names = sorted({name for part in parts for name in part.class_names})
    if any(part.labels is None for part in parts):
        return joined
    numbers = [np.array([names.index(name) for name in part.class_names])[part.labels] for part in parts]
    return joined.with_labels(np.concatenate(numbers), names)


def _from_list(data: Sequence[Any]) -> Source:
    if data and all(isinstance(item, str | os.PathLike) for item in data):
        if all(os.path.isdir(os.path.expanduser(item)) for item in data):
            return join_folders(data)
        return _files(data)
    for item in data:
        if isinstance(item, Image.Image):
            with contextlib.suppress(OSError):  # found damaged when it is its turn
                item.load()  # an open file cannot be read by several processes
    return ItemSource(data, name="list")


def _files(paths: Sequence[str | os.PathLike[str]]) -> FolderSource:
    """Files as images of the lowest folder that holds them all; a class is a folder there, as in `FolderSource`."""
    full = [os.path.abspath(os.path.expanduser(path)) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in full])
    return FolderSource.from_names(root, (os.fsencode(os.path.relpath(path, root)) for path in full))


def _tensor_source(images: torch.Tensor) -> ArraySource:
    values = images.detach().cpu().numpy()
    try:
        return ArraySource(scaled_floats(values), name="tensor")
    except ValueError as error:
        raise DataError(f"tensor of shape {values.shape}: {error}") from error


def _plain(dataset: Any) -> bool:
    """No transform of the user's own stands between files and items."""
    return all(getattr(dataset, name, None) is None for name in ("transform", "transforms"))


def _features(dataset: Any) -> dict[str, Any]:
    """Columns of a Hugging Face data set and what they hold; none of anything else."""
    features = getattr(dataset, "features", None)
    return features if hasattr(dataset, "column_names") and isinstance(features, dict) else {}


def _column_of(dataset: Any, kind: str) -> str | None:
    """The first column of this kind of a Hugging Face data set."""
    return next((name for name, feature in _features(dataset).items() if type(feature).__name__ == kind), None)


def _label_column(dataset: Any) -> str | None:
    """The first column of classes, or the whole numbers called "label"."""
    return _column_of(dataset, "ClassLabel") or ("label" if "label" in _features(dataset) else None)


def _whole_numbers(values: Any) -> np.ndarray | None:
    labels = np.asarray(values)
    return labels.astype(np.int64) if labels.ndim == 1 and labels.dtype.kind in "iu" else None
