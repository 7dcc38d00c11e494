"""A million file names without a million Python objects, and the walk through a folder that collects them."""

from __future__ import annotations

import dataclasses
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from moco.data.decode import IMAGE_EXTENSIONS


class PathTable:
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


@dataclasses.dataclass
class ScanReport:
    """What a walk left out.

    Attributes:
        stray_files: files that are not images by their extension, counted by lower-case extension.
        unreadable_folders: folders that could not be listed.
    """

    stray_files: Counter[str] = dataclasses.field(default_factory=Counter)
    unreadable_folders: list[str] = dataclasses.field(default_factory=list)


def walk_images(root: bytes, report: ScanReport) -> Iterator[bytes]:
    """Relative paths of all files below `root` with an image extension, in an order that depends on names alone.

    In each folder its files come first, then its subfolders, both sorted by bytes. Hidden files and folders are passed
    over. Links to folders are followed; each folder is visited once, so loops end.

    Args:
        root: an existing folder.
        report: filled while walking.
    """
    visited = _Visited(root)
    pending = [b""]
    while pending:
        relative = pending.pop()
        folder = os.path.join(root, relative)
        try:
            if not visited.first_time(folder, is_root=not relative):
                continue
            images, folders = _list_folder(folder, report)
        except OSError:
            report.unreadable_folders.append(os.fsdecode(folder))
            continue
        for name in images:
            yield os.path.join(relative, name)
        pending.extend(os.path.join(relative, name) for name in reversed(folders))


def _list_folder(folder: bytes, report: ScanReport) -> tuple[list[bytes], list[bytes]]:
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
            if extension in IMAGE_EXTENSIONS and kind == "file":
                images.append(entry.name)
            else:
                report.stray_files[extension] += 1
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
