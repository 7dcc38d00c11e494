"""Images that lie in one array already: in memory, in a .npy file (memory-mapped) or in a .npz file."""

from __future__ import annotations

import copy
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from moco.data.bands import RGB, Layout, agreed_channels, count_of, in_channels
from moco.data.base import UNKNOWN, RangedSource
from moco.data.bit_depth import Extent, ValueRange, eight_bit, extent_of
from moco.data.decode import DamagedImage
from moco.errors import DataError

_SUMMED = 2**28  # bytes of an array that go into checksums
_LAYOUTS = "numbers of shape (N, H, W), (N, H, W, C) or (N, C, H, W)"
_IMAGE_KEYS = ("images", "x", "data", "x_train", "train_images")
_LABEL_KEYS = ("labels", "y", "targets", "y_train", "train_labels")
_TEST_KEYS = (("x_test", "y_test"), ("test_images", "test_labels"))


class ArraySource(RangedSource):
    """Images of one size in one array; nothing is copied, grey and channel-first arrays are seen through views.

    Args:
        images: numbers of shape (N, H, W), (N, H, W, C) or (N, C, H, W); channels come first where the last axis is not
            1, 3 or 4 and the second is shorter than both others. Grey is repeated three times unless `in_channels`
            says otherwise. What is not uint8 becomes so at each visit, see `RangedSource`.
        labels: (N,) whole numbers, negative for unknown, or (N,) strings; None where there are none.
        class_names: names of labels 0, 1, ...; by default the numbers, or the strings sorted.
        name: what messages call it.

    Raises:
        DataError: another type or shape, or labels that do not fit.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | Sequence[Any] | None = None,
        *,
        class_names: Sequence[str] = (),
        name: str = "array",
    ) -> None:
        self._images = _as_nhwc(images, name)
        self.decoded = self._images.dtype == np.uint8
        self._layout = Layout(*self._images.shape[1:])
        self.channels, self.uniform_shape = self._layout.usual, self._images.shape[1:3]
        if labels is not None:
            labels, class_names = _numbered(np.asarray(labels), class_names, name)
        super().__init__(len(self._images), name=name, labels=labels, class_names=class_names)

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """One image, of uint8 as a view of the array; `min_side` has no effect.

        Raises:
            DamagedImage: values outside 0 to 65535 or 0 to 1 where no other range is known.
        """
        values = self._images[self._place(index)]
        try:
            return in_channels(values if self.decoded else eight_bit(values, depth=self.depth(index)), self.channels)
        except ValueError as error:
            raise DamagedImage(self.item_name(index), str(error)) from error

    def shapes(self, indices: np.ndarray, *, min_side: int | None = None) -> np.ndarray:
        """See `Source.shapes`."""
        return np.tile(np.array(self.uniform_shape, dtype=np.int32), (len(indices), 1))

    def in_channels(self, channels: int | None) -> Self:
        """See `Source.in_channels`; the fourth of four channels may be left out as alpha."""
        chosen = copy.copy(self)
        layout = self._layout._replace(alpha=self._layout.stored == 4 and channels == RGB)
        (chosen.channels, _) = agreed_channels([(f"each of {len(self)} images", layout)], channels, self.name)
        if layout.alpha:
            said = "is taken for alpha and not used; where it is data, state --channels 4"
            chosen._about_channels = (f"{self.name}: the fourth of its channels {said}",)
        elif chosen.channels != RGB:
            cure = "; where the fourth is alpha, state --channels 3" if chosen.channels == 4 else ""
            chosen._about_channels = (f"{self.name}: images of {count_of(chosen.channels)}{cure}",)
        return chosen

    def in_range(self, value_range: ValueRange | None) -> Self:
        """See `RangedSource`; uint8 has no range."""
        return self if self.decoded else super().in_range(value_range)

    def seems_deep(self) -> bool:
        """See `RangedSource`."""
        return not self.decoded

    def extent(self, index: int) -> Extent | None:
        """See `RangedSource`."""
        return None if self.decoded else extent_of(self._images[self._place(index)])

    def record_name(self, index: int) -> str:
        """Position in the array."""
        return str(self._place(index))

    def content_key(self, index: int) -> int:
        """See `Source.content_key`: a checksum of the pixels; of a large array, those of one image in so many."""
        place = self._place(index)
        if place % (1 + self._images.nbytes // _SUMMED):
            return 0
        return zlib.crc32(np.ascontiguousarray(self._images[place]).data)

    def item_name(self, index: int) -> str:
        """Name and position in the array."""
        return f"{self.name}[{self._place(index)}]"


def open_array_file(path: Path) -> tuple[ArraySource, ArraySource | None]:
    """Images, and the test part if the file has one, from a .npy or .npz file.

    A .npy file is memory-mapped: memory holds the pages in use. The arrays of a .npz file are unpacked into memory
    whole: N * H * W * channels bytes. In it images are called images, x, data, x_train or train_images (or are the
    first 4-D array of numbers), labels are called labels, y, targets, y_train or train_labels; x_test with y_test or
    test_images with test_labels are the test part.

    Raises:
        DataError: a file that is not what its name says, or arrays that are not images.
    """
    try:
        if path.suffix.lower() == ".npy":
            return ArraySource(np.load(path, mmap_mode="r", allow_pickle=False), name=path.name), None
        with path.open("rb") as file:  # NumPy leaves a broken archive open
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path}: a single array; call the file .npy")
            return _from_archive(archive, path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        if "allow_pickle" in reason or "Python objects" in reason:
            reason = "it holds pickled objects"
        raise DataError(f"{path}: not a usable NumPy file ({reason}); expected {_LAYOUTS}") from error


def _from_archive(archive: Any, path: Path) -> tuple[ArraySource, ArraySource | None]:
    keys = list(archive.files)
    image_key = next((key for key in _IMAGE_KEYS if key in keys), None) or _first_image_key(archive, keys)
    if image_key is None:
        raise DataError(
            f"{path}: no images among its arrays ({', '.join(keys) or 'none'}); expected {_LAYOUTS} under 'images'"
        )
    label_key = next((key for key in _LABEL_KEYS if key in keys), None)
    train = ArraySource(
        archive[image_key], None if label_key is None else archive[label_key], name=f"{path.name}:{image_key}"
    )
    for test_key, test_label_key in _TEST_KEYS:
        if test_key in keys and test_key != image_key:
            labels = archive[test_label_key] if test_label_key in keys and label_key is not None else None
            test = ArraySource(archive[test_key], labels, class_names=train.class_names, name=f"{path.name}:{test_key}")
            return train, test
    return train, None


def _first_image_key(archive: Any, keys: Sequence[str]) -> str | None:
    for key in keys:
        array = archive[key]
        if array.ndim == 4 and array.dtype.kind in "uif":
            return key
    return None


def _as_nhwc(images: np.ndarray, name: str) -> np.ndarray:
    """A view of shape (N, H, W, C)."""
    images = np.asanyarray(images)
    if images.dtype.kind not in "uif":
        cure = "; save x.astype('uint8') * 255" if images.dtype.kind == "b" else ""
        raise DataError(f"{name}: {images.dtype} array of shape {images.shape}; expected {_LAYOUTS}{cure}")
    if images.ndim == 3 and _may_be_one_image(*images.shape):
        count, height, width = images.shape
        raise DataError(
            f"{name}: array of shape {images.shape}, one image in colour or {count} grey ones of {height} x {width}? "
            "Put images in colour together, (N, H, W, 3); save grey ones as x[..., None]"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[-1] not in (1, 3, 4) and images.shape[1] < min(images.shape[2:]):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise DataError(f"{name}: array of shape {images.shape}; expected {_LAYOUTS}")
    if not len(images):
        raise DataError(f"{name}: array of shape {images.shape} holds no images")
    return images


def _may_be_one_image(first: int, second: int, third: int) -> bool:
    return (third in (3, 4) and min(first, second) > 4) or (first == 3 and min(second, third) > 4)


def _numbered(labels: np.ndarray, class_names: Sequence[str], name: str) -> tuple[np.ndarray, Sequence[str]]:
    """Labels as numbers, and the names of all classes."""
    if labels.dtype.kind in "US":
        text = labels.astype(str).reshape(-1)
        class_names = class_names or sorted(set(text.tolist()))
        numbers = {class_name: number for number, class_name in enumerate(class_names)}
        return np.array([numbers.get(value, UNKNOWN) for value in text.tolist()], dtype=np.int64), class_names
    if labels.dtype.kind not in "iub" or not labels.size:
        return labels, class_names
    classes = int(labels.max()) + 1
    if classes > max(labels.size, len(class_names), 1000):
        raise DataError(f"{name}: label {classes - 1} for {labels.size} images; expected numbers from 0 without gaps")
    if class_names and classes > len(class_names):
        raise DataError(f"{name}: label {classes - 1}, but there are {len(class_names)} class names")
    return labels, class_names or [str(number) for number in range(classes)]
