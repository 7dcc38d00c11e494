"""Images from any folder: nested, unlabelled, or one folder per class."""

from __future__ import annotations

import copy
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from moco.data.bands import agreed_channels
from moco.data.base import HEADERS, RangedSource, spaced
from moco.data.bit_depth import Extent, extent_of
from moco.data.decode import IMAGE_EXTENSIONS, image_layout, image_shape, read_pixels, unscaled
from moco.errors import DataError

# First-level folders with these names are parts of a data set, not classes.
PART_NAMES = frozenset(
    {"train", "training", "val", "valid", "validation", "test", "testing", "unlabeled", "unlabelled"}
)
_KINDS = 5  # of files that are not read, named in a message
ARRAY_EXTENSIONS = frozenset({".npy", ".dcm"})  # an image each, where a folder holds none of IMAGE_EXTENSIONS
_LAYOUTS = 64  # files whose channels are looked at when a folder is opened
_CHUNK = 64  # files whose sizes are read in one task


class FolderSource(RangedSource):
    """All images below a folder, read from disk one at a time.

    A class is a first-level folder, where every image lies in one, there are at least two, and they are not called
    train, val, test. Memory: the characters of the relative paths and 16 bytes an image (while listing, also the names
    of the largest single folder); pixels are never kept.

    Args:
        root: the folder.

    Attributes:
        root: the folder.

    Raises:
        DataError: no such folder, not a folder, or no images in it.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            problem = "not a folder" if root.exists() else "no such folder"
            raise DataError(f"{root}: {problem}; expected a folder of images")
        strays: Counter[str] = Counter()
        unlisted: list[str] = []
        self._fill(root, _walk(os.fsencode(root), IMAGE_EXTENSIONS, strays, unlisted))
        if not len(self) and ARRAY_EXTENSIONS & strays.keys():
            strays, unlisted = Counter(), []
            self._fill(root, _walk(os.fsencode(root), ARRAY_EXTENSIONS, strays, unlisted))
        if not len(self):
            raise DataError(_no_images(root, strays, unlisted))
        self.not_read = dict(sorted(strays.items()))
        self._remarks = tuple(_not_read(root, strays, unlisted))

    @classmethod
    def from_names(cls, root: str | Path, names: Iterable[bytes]) -> FolderSource:
        """A source from known relative paths, without a look at the disk."""
        source = cls.__new__(cls)
        source._fill(Path(root), names)
        return source

    def _fill(self, root: Path, names: Iterable[bytes]) -> None:
        self.root, self._paths = root, _PathTable(names)
        labels, class_names = _classes(self._paths)
        name = root.name or root.resolve().name or str(root)
        super().__init__(len(self._paths), name=name, labels=labels, class_names=class_names)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / os.fsdecode(self._paths[self._place(index)])

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """Decode one file; see `read_image` for `min_side`."""
        with self._listened(index):
            return read_pixels(self.path(index), min_side=min_side, depth=self.depth(index), channels=self.channels)

    def in_channels(self, channels: int | None) -> Self:
        """See `Source.in_channels`: a number that fits a sample of the files, evenly spaced; all of a small folder."""
        chosen = copy.copy(self)
        layouts = ((self.item_name(index), image_layout(self.path(index))) for index in spaced(len(self), _LAYOUTS))
        chosen.channels, chosen._about_channels = agreed_channels(layouts, channels, self.name)
        return chosen

    def seems_deep(self) -> bool:
        """Whether one of a few files, evenly spaced, has more than 8 bits."""
        return any(self.extent(index) is not None for index in spaced(len(self), HEADERS))

    def extent(self, index: int) -> Extent | None:
        """See `RangedSource`; the pixels of files of 8 bits are not read."""
        values = unscaled(self.path(index), self.channels)
        return None if values is None else extent_of(values)

    def shapes(self, indices: np.ndarray, *, min_side: int | None = None) -> np.ndarray:
        """Heights and widths from the first bytes of each file, read by threads; see `Source.shapes`."""
        with ThreadPoolExecutor(thread_name_prefix="moco-shapes") as pool:
            parts = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
            found = pool.map(lambda part: [image_shape(self.path(int(i)), min_side=min_side) for i in part], parts)
            return np.array([shape for part in found for shape in part], dtype=np.int32).reshape(-1, 2)

    def content_key(self, index: int) -> int:
        """See `Source.content_key`."""
        try:
            return os.stat(os.path.join(self.root, os.fsdecode(self._paths[self._place(index)]))).st_size
        except OSError:
            return -1

    def item_name(self, index: int) -> str:
        """Path relative to the folder, with forward slashes."""
        return os.fsdecode(self._paths[self._place(index)]).replace(os.sep, "/")


class _PathTable:
    """N paths, relative to a folder, in one run of bytes and N + 1 offsets.

    Costs the characters of the paths plus 8 bytes for each.
    """

    def __init__(self, paths: Iterable[bytes]) -> None:
        text, ends = bytearray(), array("q", [0])
        for path in paths:
            text += path
            ends.append(len(text))
        self._text = bytes(text)
        self._offsets = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self._text[self._offsets[index] : self._offsets[index + 1]]


def _classes(paths: _PathTable) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and class names by first-level folder, sorted by bytes; None and () where those are not classes."""
    separator = os.fsencode(os.sep)
    numbers: dict[bytes, int] = {}
    of_image = array("q")
    for index in range(len(paths)):
        folder, inside, _ = paths[index].partition(separator)
        if not inside:
            return None, ()
        of_image.append(numbers.setdefault(folder, len(numbers)))
    folders = sorted(numbers)
    names = tuple(os.fsdecode(folder) for folder in folders)
    if len(names) < 2 or PART_NAMES.issuperset(name.lower() for name in names):
        return None, ()
    rank = np.empty(len(folders), dtype=np.int64)
    rank[[numbers[folder] for folder in folders]] = np.arange(len(folders))
    return rank[np.frombuffer(of_image, dtype=np.int64)], names


def _walk(root: bytes, wanted: Set[str], strays: Counter[str], unlisted: list[str]) -> Iterator[bytes]:
    """Relative paths of all files below `root` with a wanted extension, in an order that depends on names alone.

    In each folder its files come first, then its subfolders, both sorted by bytes. Hidden files and folders are passed
    over. Links to folders are followed; each folder is visited once, so loops end.

    Args:
        root: an existing folder.
        wanted: lower-case extensions.
        strays: counts the files that are not images, by lower-case extension.
        unlisted: collects the folders that cannot be listed.
    """
    visited = _Visited(root)
    pending = [b""]
    while pending:
        relative = pending.pop()
        folder = os.path.join(root, relative)
        try:
            if not visited.first_time(folder, is_root=not relative):
                continue
            images, folders = _list_folder(folder, wanted, strays)
        except OSError:
            unlisted.append(os.fsdecode(folder))
            continue
        for name in images:
            yield os.path.join(relative, name)
        pending.extend(os.path.join(relative, name) for name in reversed(folders))


def _list_folder(folder: bytes, wanted: Set[str], strays: Counter[str]) -> tuple[list[bytes], list[bytes]]:
    """Sorted names of the images and the subfolders of one folder."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            kind = _kind(entry)
            if kind == "folder":
                folders.append(entry.name)
                continue
            extension = os.fsdecode(os.path.splitext(entry.name)[1]).lower()
            if extension in wanted and kind == "file":
                images.append(entry.name)
            else:
                strays[extension] += 1
    return sorted(images), sorted(folders)


def _kind(entry: os.DirEntry[bytes]) -> str:
    """folder, file or other. A broken link is a file, so that reading reports it; pipes and devices are other."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else "other"
    except OSError:  # a link to itself
        return "file"


class _Visited:
    """Which folders were entered already."""

    def __init__(self, root: bytes) -> None:
        self._real_root = os.path.realpath(root)
        self._seen: set[tuple[int, int]] = set()

    def first_time(self, folder: bytes, *, is_root: bool) -> bool:
        if not is_root and os.path.islink(folder) and self._walked_anyway(folder):
            return False
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    def _walked_anyway(self, link: bytes) -> bool:
        """True if the target lies visibly below the root: it is entered under its own name."""
        target = os.path.realpath(link)
        if target == self._real_root:
            return True
        inside = target.startswith(os.path.join(self._real_root, b""))
        parts = target[len(self._real_root) :].split(os.fsencode(os.sep))
        return inside and not any(part.startswith(b".") for part in parts)


def _not_read(root: Path, strays: Counter[str], unlisted: list[str]) -> Iterator[str]:
    """A line for the files that are no images by their extension, and one for folders that cannot be listed."""
    if strays:
        yield f"{root}: not read: {_kinds(strays)}"
    if unlisted:
        yield f"{root}: {len(unlisted)} folders could not be listed, the first is {unlisted[0]}: check permissions"


def _kinds(strays: Counter[str]) -> str:
    """`30 .dcm, 2 without an extension`, the most frequent five."""
    named = sorted(strays.items(), key=lambda kind: (-kind[1], kind[0]))[:_KINDS]
    kinds = [f"{count:,} {extension or 'without an extension'}" for extension, count in named]
    more = strays.total() - sum(count for _, count in named)
    return ", ".join([*kinds, *([f"{more:,} others"] if more else [])])


def _no_images(root: Path, strays: Counter[str], unlisted: list[str]) -> str:
    expected = " ".join(sorted(IMAGE_EXTENSIONS))
    if unlisted:
        return f"{root}: no images; {len(unlisted)} folders could not be listed: check permissions"
    if not strays:
        return f"{root}: the folder holds no files; expected images ({expected})"
    return f"{root}: no images among {strays.total()} files ({_kinds(strays)}); expected {expected}"
