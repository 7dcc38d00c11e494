"""Whether a folder of images is still what it was: by the names, sizes and times of its files, never their content."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from moco.data.folder import FolderSource


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What a listing of a folder says.

    Attributes:
        images: image files.
        bytes: their sizes together.
        newest: latest time of change of a file, in nanoseconds since 1970.
        listing: BLAKE2b over the relative path, size and time of change of each file, in hexadecimal.
        folders: time of change of each folder that holds images or folders with images, by its relative path.
    """

    images: int
    bytes: int
    newest: int
    listing: str
    folders: dict[str, int]

    @classmethod
    def take(cls, source: FolderSource) -> Fingerprint:
        """Look at every file; seconds for a million of them. A file that is gone counts with size and time -1."""
        digest, total, newest, folders = hashlib.blake2b(digest_size=16), 0, 0, {""}
        last = ""
        for index in range(len(source)):
            name = source.item_name(index)
            size, changed = _status(source.root / name)
            digest.update(f"{name}\0{size}\0{changed}\0".encode("utf-8", "surrogateescape"))
            total, newest = total + max(size, 0), max(newest, changed)
            folder = name.rpartition("/")[0]
            if folder != last:
                last = folder
                while folder not in folders:
                    folders.add(folder)
                    folder = folder.rpartition("/")[0]
        times = {folder: _status(source.root / folder)[1] for folder in sorted(folders)}
        return cls(len(source), total, newest, digest.hexdigest(), times)

    def same_files(self, other: Fingerprint) -> bool:
        """Whether both listings name the same files of the same sizes and times."""
        return self.listing == other.listing

    def has_moved(self, root: Path) -> bool:
        """Whether a file may have come, gone or been renamed below `root`: one look at each folder, none at files."""
        return any(_status(root / folder)[1] != changed for folder, changed in self.folders.items())


def _status(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
