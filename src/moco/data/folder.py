"""Images from any folder: nested, unlabelled, or one folder per class."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from moco.data.base import Source
from moco.data.decode import IMAGE_EXTENSIONS, image_shape, read_image, read_pixels
from moco.data.paths import PathTable, ScanReport, walk_images
from moco.errors import DataError

# First-level folders with these names are parts of a data set, not classes.
_PART_NAMES = frozenset(
    {"train", "training", "val", "valid", "validation", "test", "testing", "unlabeled", "unlabelled"}
)
_CHUNK = 64  # files whose sizes are read in one task


class FolderSource(Source):
    """All images below a folder, read from disk one at a time.

    A class is a first-level folder, where every image lies in one, there are at least two, and they are not called
    train, val, test. Memory: the characters of the relative paths and 16 bytes an image (while listing, also the names
    of the largest single folder); pixels are never kept.

    Args:
        root: the folder.

    Attributes:
        root: the folder.
        stray_files: files below it that are not images by their extension, counted by lower-case extension.
        unreadable_folders: subfolders that could not be listed.

    Raises:
        DataError: no such folder, not a folder, or no images in it.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            problem = "not a folder" if root.exists() else "no such folder"
            raise DataError(f"{root}: {problem}; expected a folder of images")
        report = ScanReport()
        self._fill(root, walk_images(os.fsencode(root), report), report)
        if not len(self):
            raise DataError(_no_images(root, report))

    @classmethod
    def from_names(cls, root: str | Path, names: Iterable[bytes]) -> FolderSource:
        """A source from known relative paths, without a look at the disk."""
        source = cls.__new__(cls)
        source._fill(Path(root), names, ScanReport())
        return source

    def _fill(self, root: Path, names: Iterable[bytes], report: ScanReport) -> None:
        first_level = _FirstLevel()
        self._paths = PathTable(first_level.watch(names))
        labels, class_names = first_level.classes()
        super().__init__(
            len(self._paths), name=root.name or root.resolve().name or str(root), labels=labels, class_names=class_names
        )
        self.root = root
        self.stray_files = dict(report.stray_files)
        self.unreadable_folders = tuple(report.unreadable_folders)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / os.fsdecode(self._paths[self._place(index)])

    def image(self, index: int, *, min_side: int | None = None) -> Image.Image:
        """Decode one file; see `read_image` for `min_side`.

        Raises:
            DamagedImage: the file cannot be read.
        """
        return read_image(self.path(index), min_side=min_side)

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """The same as an array."""
        return read_pixels(self.path(index), min_side=min_side)

    def shapes(self, indices: np.ndarray, *, min_side: int | None = None) -> np.ndarray:
        """Heights and widths from the first bytes of each file, read by threads; see `Source.shapes`."""
        with ThreadPoolExecutor(thread_name_prefix="moco-shapes") as pool:
            parts = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
            found = pool.map(lambda part: [image_shape(self.path(int(i)), min_side=min_side) for i in part], parts)
            return np.array([shape for part in found for shape in part], dtype=np.int32).reshape(-1, 2)

    def item_name(self, index: int) -> str:
        """Path relative to the folder, with forward slashes."""
        return os.fsdecode(self._paths[self._place(index)]).replace(os.sep, "/")


class _FirstLevel:
    """Notes the first-level folder of each path that passes by."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._of_image = array("q")
        self._all_inside = True

    def watch(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        separator = os.fsencode(os.sep)
        for path in paths:
            folder, inside, _ = path.partition(separator)
            self._all_inside = self._all_inside and bool(inside)
            if self._all_inside:
                self._of_image.append(self._numbers.setdefault(folder, len(self._numbers)))
            yield path

    def classes(self) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Labels and class names, sorted by bytes; None and () where the folders are not classes."""
        folders = sorted(self._numbers)
        names = tuple(os.fsdecode(folder) for folder in folders)
        if not self._all_inside or len(names) < 2 or _PART_NAMES.issuperset(name.lower() for name in names):
            return None, ()
        rank = np.empty(len(folders), dtype=np.int64)
        rank[[self._numbers[folder] for folder in folders]] = np.arange(len(folders))
        return rank[np.frombuffer(self._of_image, dtype=np.int64)], names


def _no_images(root: Path, report: ScanReport) -> str:
    expected = " ".join(sorted(IMAGE_EXTENSIONS))
    if report.unreadable_folders:
        return f"{root}: no images; {len(report.unreadable_folders)} folders could not be listed: check permissions"
    if not report.stray_files:
        return f"{root}: the folder holds no files; expected images ({expected})"
    seen = ", ".join(f"{count} {extension or 'without one'}" for extension, count in report.stray_files.most_common(5))
    return f"{root}: no images among {report.stray_files.total()} files (extensions: {seen}); expected {expected}"
