"""Images by index, wherever they come from: a map-style data set with labels, names and subsets."""

from __future__ import annotations

import contextlib
import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Self

import numpy as np
import torch
from torch.utils.data import Dataset

from moco.data.bands import RGB
from moco.data.bit_depth import FULL, Depth, Extent, ValueRange, range_text
from moco.data.libtiff import listening
from moco.data.shared_memory import shared
from moco.errors import DataError

UNKNOWN = -1  # label of an image whose class is not known


class Source(Dataset[np.ndarray], ABC):
    """Images by index, some or all of those that a folder, an array or a data set holds; subsets copy no image.

    Args:
        size: images in the whole.
        name, labels, class_names: see below; negative labels are made UNKNOWN.

    Attributes:
        name: what the user calls it.
        labels: (N,) int64, UNKNOWN where the class is not known; None where no class is.
        class_names: names of labels 0, 1, ...
        decoded: pixels lie in memory or in a mapped file already, so that keeping them would gain nothing.
        uniform_shape: height and width of such images where they are those of all; else None.
        channels: C, of every image; 3 is RGB.
        not_read: files beside the images, by lower-case extension, "" for none.
        value_range: of images of floats or of more than 8 bits, what is spread over 0 to 255; None where no range is
            known.

    Raises:
        DataError: labels of another number than the images.
    """

    decoded = False
    uniform_shape: tuple[int, int] | None = None
    channels: int = RGB
    not_read: Mapping[str, int] = MappingProxyType({})
    value_range: ValueRange | None = None
    _remarks: tuple[str, ...] = ()
    _about_channels: tuple[str, ...] = ()

    def __init__(
        self, size: int, *, name: str, labels: np.ndarray | None = None, class_names: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.labels = None if labels is None else _checked_labels(labels, size, name)
        self._size = size
        self._members: np.ndarray | None = None  # indices into the whole; None for all of it

    def __len__(self) -> int:
        return self._size if self._members is None else len(self._members)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels(index)

    @abstractmethod
    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """One image, (H, W, C) uint8, upright, perhaps read-only.

        Args:
            index: 0 to N - 1.
            min_side: the caller needs no more than this many pixels on the shorter side; a source may use it to
                decode a huge photograph at a reduced size, never below it.

        Raises:
            DamagedImage: the image cannot be read.
            IndexError: no such index.
        """

    def shapes(self, indices: np.ndarray, *, min_side: int | None = None) -> np.ndarray | None:
        """Height and width of what `pixels` will give, (n, 2) int32, found without decoding; None if that cannot be.

        Zeros stand for images that cannot be read.
        """
        return None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know before the images are used, a line each."""
        said = (*self._remarks, *self._about_channels)
        if self.value_range is None:
            return said
        kind = "floats or " if isinstance(self.value_range, tuple) else ""
        values = range_text(self.value_range)
        return *said, f"{self.name}: in images of {kind}more than 8 bits, values {values} become 0 to 255"

    @property
    def clipped(self) -> int:
        """Images met so far, in worker processes too, that hold values above the range."""
        return 0

    @property
    def doubted(self) -> int:
        """Images met so far, in worker processes too, that could be read and of which libtiff has warned."""
        return 0

    @property
    def first_only(self) -> int:
        """Files met so far, in worker processes too, of whose pages or frames only the first is used."""
        return 0

    def closing_line(self) -> str:
        """What to say at the end of the images that were met; nothing where there is nothing to say."""
        return "; ".join(filter(None, (self._clipped_line(), self._doubted_line(), self._first_only_line())))

    def _first_only_line(self) -> str:
        if not self.first_only:
            return ""
        files = "1 file has" if self.first_only == 1 else f"{self.first_only:,} files have"
        return f"{self.name}: {files} several pages or frames, of which only the first was used"

    def _doubted_line(self) -> str:
        if not self.doubted:
            return ""
        files = "1 TIFF file" if self.doubted == 1 else f"{self.doubted:,} TIFF files"
        return f"{self.name}: {files} could be read, but libtiff found them damaged or odd (tiffinfo FILE says how)"

    def _clipped_line(self) -> str:
        if not self.clipped:
            return ""
        what = "1 image holds" if self.clipped == 1 else f"{self.clipped:,} images hold"
        values = f"above {self.value_range}, which became 255"
        if isinstance(self.value_range, tuple):
            values = f"outside {range_text(self.value_range)}, which became 0 or 255"
        return f"{self.name}: {what} values {values} (moco pretrain --value-range)"

    def in_range(self, value_range: ValueRange | None) -> Self:
        """The same images with this range of those of floats or of more than 8 bits."""
        return self

    def in_channels(self, channels: int | None) -> Self:
        """The same images with so many channels; None: 3 for grey, RGB and both with alpha, else all that they have.

        Raises:
            DataError: they have others, or not all the same.
        """
        if channels not in (None, self.channels):
            raise DataError(f"{self.name} has {self.channels} channels, expected {channels}: leave --channels out")
        return self

    def reading(self, *key: int) -> AbstractContextManager[None]:
        """Inside, what is random about reading an image follows from the key alone; nothing is, but in users' code."""
        return contextlib.nullcontext()

    @abstractmethod
    def item_name(self, index: int) -> str:
        """What the user calls the image."""

    def record_name(self, index: int) -> str:
        """What tells the image apart from the others wherever the whole lies."""
        return self.item_name(index)

    def content_key(self, index: int) -> int:
        """A number that is another one, most likely, where the image has changed, found without decoding: the size of
        a file in bytes, a checksum; 0 where nothing is known, -1 for a file that is gone."""
        return 0

    def subset(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The images at `indices`, in that order; shares everything with this source.

        Raises:
            IndexError: an index outside 0 to len - 1.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"subset of {self.name}: indices {chosen.min()} to {chosen.max()} of {len(self)} images")
        part = copy.copy(self)
        part._members = chosen if self._members is None else self._members[chosen]
        part.labels = None if self.labels is None else self.labels[chosen]
        return part

    def with_labels(
        self, labels: np.ndarray | None, class_names: Sequence[str], *, remarks: Sequence[str] = ()
    ) -> Self:
        """The same images with other labels, and what is to be said of these.

        Raises:
            DataError: labels of another number than the images.
        """
        relabelled = copy.copy(self)
        relabelled.labels = None if labels is None else _checked_labels(labels, len(self), self.name)
        relabelled.class_names, relabelled._remarks = tuple(class_names), (*self._remarks, *remarks)
        return relabelled

    def _place(self, index: int) -> int:
        """Where the image lies in the whole."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {self.name}: expected 0 to {len(self) - 1}")
        return int(index if self._members is None else self._members[index])


def spaced(count: int, most: int) -> list[int]:
    """Evenly spaced ones of so many images: all where there are few."""
    return [int(index) for index in np.unique(np.linspace(0, count - 1, most).astype(np.int64))]


HEADERS = 8  # images looked at to see whether there are any of more than 8 bits


class RangedSource(Source):
    """A source whose images may have more than 8 bits; until `in_range`, those are spread over all of 16."""

    # For each image of the whole: whether it holds values outside `value_range`, whether libtiff has warned of it, and
    # whether it is the first of several in its file.
    _above: torch.Tensor
    _doubts: torch.Tensor | None = None
    _first: torch.Tensor | None = None

    @abstractmethod
    def seems_deep(self) -> bool:
        """Whether a first look finds images of more than 8 bits."""

    @abstractmethod
    def extent(self, index: int) -> Extent | None:
        """Of the values of an image of floats or of more than 8 bits; None for others, and where it cannot be read."""

    def in_range(self, value_range: ValueRange | None) -> Self:
        """See `Source.in_range`; what was clipped is counted anew."""
        ranged = copy.copy(self)
        ranged.value_range = value_range
        ranged._above = shared(torch.zeros(self._size if value_range else 0, dtype=torch.bool))
        ranged._doubts, ranged._first = (shared(torch.zeros(self._size, dtype=torch.bool)) for _ in range(2))
        return ranged

    def depth(self, index: int) -> Depth:
        """How values of more than 8 bits of one image become 8; what is outside the range is counted."""
        if self.value_range is None:
            return FULL
        return Depth.of(self.value_range, functools.partial(self._note, self._place(index)))

    def _note(self, place: int, extent: Extent) -> None:
        limits = Depth.of(self.value_range)
        if self.value_range is not None and (extent.high > limits.top or extent.low < (limits.low or 0)):
            self._above[place] = True

    @contextlib.contextmanager
    def _listened(self, index: int) -> Iterator[None]:
        """Around reading an image: what libtiff says is not printed but counted, once an image; so are files of
        several.
        """
        with listening() as heard:
            yield
        if heard.said and self._doubts is not None:
            self._doubts[self._place(index)] = True
        if heard.first_only and self._first is not None:
            self._first[self._place(index)] = True

    @property
    def first_only(self) -> int:
        """See `Source.first_only`."""
        return 0 if self._first is None else int(self._first.sum())

    @property
    def doubted(self) -> int:
        """See `Source.doubted`."""
        return 0 if self._doubts is None else int(self._doubts.sum())

    @property
    def clipped(self) -> int:
        """See `Source.clipped`."""
        return 0 if self.value_range is None else int(self._above.sum())


def _checked_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    """Labels as (count,) int64, every negative one UNKNOWN.

    Raises:
        DataError: another number than the images, or not whole numbers.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (count,):
        raise DataError(f"{name}: labels of shape {values.shape} for {count} images: expected ({count},)")
    if values.dtype.kind not in "iub":
        raise DataError(f"{name}: labels of type {values.dtype}: expected whole numbers, {UNKNOWN} for unknown")
    return np.maximum(values.astype(np.int64), UNKNOWN)
