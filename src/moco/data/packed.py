"""The images of a pack. See `pack_format` for the files.

Tables and images that lie in one array are read through memory maps, single records by positioned reads: these do not
hold the interpreter lock while a disk is slow, and leave no pages behind. Memory grows by an image's label alone.
"""

from __future__ import annotations

import mmap
import os
import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from moco.data.base import Source
from moco.data.bit_depth import ValueRange, range_text
from moco.data.decode import decode_pixels, reduction
from moco.data.fingerprint import Fingerprint
from moco.data.folder import FolderSource
from moco.data.pack_format import DATA, INDEX, NAMES, PARTIAL, ROW, Meta
from moco.errors import DataError


class PackedSource(Source):
    """The images of a pack.

    Args:
        path: the folder of the pack.
        check_source: look whether files have come to or gone from the folder that was packed, where it is still there.

    Attributes:
        path: the folder of the pack.
        root: the folder that was packed, whose names the images keep; None if the pack is detached from it.
        meta: what the pack says of itself.

    Raises:
        DataError: a pack that is not whole, of another version, cut short, whose tables are not as they were written
            (their checksum is looked at), or whose source has changed.
    """

    def __init__(self, path: str | Path, *, check_source: bool = True) -> None:
        self.path = Path(path)
        self.meta = Meta.read(self.path)
        self._check_files()
        if check_source:
            self._check_source(thorough=False)
        try:
            self._data = Records(self.path / DATA)
            self._index = _mapped(self.path / INDEX, ROW)
            self._names = _mapped(self.path / NAMES, np.dtype(np.uint8))
        except OSError as error:
            raise DataError(f"{self.path}: the pack cannot be read ({error.strerror}): check permissions") from error
        if zlib.crc32(self._names.data, zlib.crc32(self._index.data)) != self.meta.tables_crc32:
            raise DataError(f"{self.path}: {INDEX} or {NAMES} is damaged: {self.meta.repair(self.path)}")
        labels = self._index["label"] if self.meta.class_names else None
        super().__init__(len(self._index), name=self.path.name, labels=labels, class_names=self.meta.class_names)
        self.root = None if self.meta.source is None else Path(self.meta.source)
        self.value_range, self.channels = self.meta.value_range, self.meta.channels
        self.decoded = self.meta.options.format == "raw"
        self.uniform_shape = self.meta.shape if self.decoded else None

    def _check_files(self) -> None:
        meta = self.meta
        if not meta.complete:
            target = str(self.path).removesuffix(PARTIAL)
            raise DataError(
                f"{self.path}: a pack that was interrupted: go on with "
                f"moco pack {meta.source or 'DIR'} --out {target}{meta.options.arguments()}"
            )
        expected = {DATA: meta.data_bytes, INDEX: meta.images * ROW.itemsize, NAMES: meta.name_bytes}
        for name, size in expected.items():
            file = self.path / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found:,} bytes"
                raise DataError(
                    f"{file} {what}, expected {size:,} bytes, so the pack is not whole: {meta.repair(self.path)}"
                )

    def _check_source(self, *, thorough: bool) -> None:
        """Refuse a folder that is no longer as it was packed, if it is still there.

        Args:
            thorough: look at the size and time of every file, not only for folders in which files came or went.
        """
        root, then = self.meta.source, self.meta.fingerprint
        if root is None or not Path(root).is_dir() or not (thorough or then.has_moved(Path(root))):
            return
        try:
            same = then.same_files(Fingerprint.take(FolderSource(root)))
        except DataError:  # no images are left in it
            same = False
        if not same:
            found = "all records are right, but " if thorough else ""
            raise DataError(
                f"{self.path}: {found}{root} has changed since it was packed: {self.meta.repair(self.path)}, "
                f"or keep the pack as it is with moco pack {self.path} --detach"
            )

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """One image, perhaps read-only; `min_side` has no effect on a raw pack.

        Raises:
            DamagedImage: the record cannot be decoded.
        """
        place = self._place(index)
        record = self.record(place)
        if self.decoded:
            shape = self._index["height"][place], self._index["width"][place], self.channels
            return np.frombuffer(record, dtype=np.uint8).reshape(shape)
        return decode_pixels(record, item=self.item_name(index), min_side=min_side, channels=self.channels)

    def in_channels(self, channels: int | None) -> Self:
        """The pack itself.

        Raises:
            DataError: its images have others.
        """
        if channels not in (None, self.channels):
            raise DataError(
                f"{self.path}: packed with {self.channels} channels, expected {channels}: leave --channels out, or "
                f"make it anew with moco pack {self.meta.source or 'DIR'} --channels {channels}"
            )
        return self

    def in_range(self, value_range: ValueRange | None) -> Self:
        """The pack itself, whose pixels have 8 bits already.

        Raises:
            DataError: its images were given another range.
        """
        if value_range is not None and self.value_range not in (None, value_range):
            raise DataError(
                f"{self.path}: packed with values {range_text(self.value_range)}, expected {range_text(value_range)} "
                f"as in the run: give the folder {self.meta.source or ''} itself"
            )
        return self

    def record(self, place: int) -> bytes:
        """What data.bin holds for the image at this place of the whole pack."""
        start = int(self._index["end"][place - 1]) if place else 0
        return self._data.read(start, int(self._index["end"][place]))

    def shapes(self, indices: np.ndarray, *, min_side: int | None = None) -> np.ndarray:
        """Heights and widths from the table; see `Source.shapes`."""
        places = indices if self._members is None else self._members[indices]
        rows = self._index[places]
        shapes = np.stack([rows["height"], rows["width"]], axis=1).astype(np.int32)
        if self.decoded or min_side is None:
            return shapes
        largest = shapes.min(axis=1) >= 2 * min_side
        for position in np.flatnonzero(largest):
            height, width = shapes[position].tolist()
            factor = reduction(height, width, min_side)
            shapes[position] = -(-shapes[position] // factor)
        return shapes

    def item_name(self, index: int) -> str:
        """Path relative to the folder that was packed, with forward slashes."""
        place = self._place(index)
        start = self._index["name_end"][place - 1] if place else 0
        return os.fsdecode(self._names[start : self._index["name_end"][place]].tobytes())

    def content_key(self, index: int) -> int:
        """See `Source.content_key`: the checksum of its record."""
        return int(self._index["crc32"][self._place(index)])

    def damaged_records(self, *, show_progress: bool = False) -> list[str]:
        """Names of the records whose checksum is wrong."""
        places = tqdm(range(len(self)), unit="images", desc="verifying", leave=False, disable=not show_progress)
        return [self.item_name(p) for p in places if zlib.crc32(self.record(p)) != int(self._index["crc32"][p])]

    def verify(self, *, show_progress: bool = False) -> None:
        """Compare every record with its checksum, and every file of the folder that was packed with what it was.

        Raises:
            DataError: a record is damaged, or the folder has changed.
        """
        wrong = self.damaged_records(show_progress=show_progress)
        if wrong:
            raise DataError(
                f"{self.path}: {len(wrong):,} of {len(self):,} records are damaged, the first is {wrong[0]}: "
                f"{self.meta.repair(self.path)}"
            )
        self._check_source(thorough=True)


class Records:
    """Parts of a file, for any number of threads; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._close = os.close  # at hand even while the interpreter ends
        self._mapped = None if hasattr(os, "pread") else _mapped(path, np.dtype(np.uint8))  # Windows

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`; fewer where the file ends."""
        if self._mapped is not None:
            return self._mapped[start:stop].tobytes()
        return os.pread(self._descriptor, stop - start, start)

    def __del__(self) -> None:
        if hasattr(self, "_close"):
            self._close(self._descriptor)


def _mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A file as a read-only array whose pages the system may drop; an empty one as an empty array."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype=dtype)
