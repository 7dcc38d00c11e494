"""The one place where a user's word for images is understood."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moco.data.arrays import ArraySource, open_array_file
from moco.data.base import RangedSource, Source, spaced
from moco.data.bit_depth import ValueRange, used_range
from moco.data.decode import IMAGE_EXTENSIONS, DamagedImage
from moco.data.folder import FolderSource
from moco.data.named import find_named, nearest_named, open_named
from moco.data.pack_format import PARTIAL, is_pack
from moco.data.packed import PackedSource
from moco.data.user_data import Images, adapt
from moco.errors import DataError

_ARRAY_EXTENSIONS = frozenset({".npy", ".npz"})
_ARCHIVE_EXTENSIONS = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"})
_PROBES = 64  # files tried before a folder is called unreadable
_RANGED = 15  # images read for their range of values, a third of a second each for 4 megapixels of 16-bit colour


def open_source(
    data: Images,
    *,
    data_root: str | Path | None = None,
    least: int = 2,
    value_range: ValueRange | None = None,
    channels: int | None = None,
    choose: Callable[[Source], Source] = lambda source: source,
) -> tuple[Source, Source | None]:
    """The images that a user means, and their own test part if they have one.

    Args:
        data: a folder; a pack that `moco pack` made; a .npy or .npz file; the name of a torchvision data set
            (downloaded if need be); an array or a tensor of images; a list of folders, paths or images; a data set of
            PyTorch, torchvision or Hugging Face (see `moco.data.user_data`); a source; or None for the embedded picture
            book. An existing path comes before a name.
        data_root: where named data sets are stored; None means ~/.cache/moco.
        least: images that are needed, 1 or 2.
        value_range: see `Source.in_range`; None finds it on a sample.
        channels: see `Source.in_channels`.
        choose: from all images to those that are wanted, before anything is read of them.

    Raises:
        DataError: nothing there, nothing readable, too few images, or a wrong type or shape.
    """
    source, test = _open(data, data_root)
    source = choose(source)
    if len(source) < least:
        raise DataError(f"{source.name}: one image only; expected at least 2, as every other one is a negative")
    source = source.in_channels(channels)
    test = None if test is None else test.in_channels(source.channels)
    source = in_used_range(source) if value_range is None else source.in_range(value_range)
    if isinstance(source, FolderSource):
        _probe(source)
    return source, test


def in_used_range(source: Source) -> Source:
    """The images in the range that a sample of them uses; see `Source.in_range`."""
    return source.in_range(_value_range(source)) if isinstance(source, RangedSource) else source


def _open(data: Images, data_root: str | Path | None) -> tuple[Source, Source | None]:
    if data is None:
        return _picture_book()
    if isinstance(data, np.ndarray):
        return ArraySource(data), None
    if isinstance(data, str | os.PathLike):
        if data == "":
            raise DataError(
                "data is an empty text, as of an unset variable: name a folder, an array file or a data set"
            )
        path = Path(data).expanduser()
        name = find_named(data) if isinstance(data, str) and not path.exists() else None
        if name is not None:
            return open_named(name, data_root=data_root)
        return _open_path(path)
    return data if isinstance(data, Source) else adapt(data), None


def _open_path(path: Path) -> tuple[Source, Source | None]:
    if not path.exists():
        raise DataError(_missing(path))
    if path.is_dir():
        return PackedSource(path) if is_pack(path) else FolderSource(path), None
    suffix = path.suffix.lower()
    if suffix in _ARRAY_EXTENSIONS:
        return open_array_file(path)
    cure = "give a folder, a .npy or a .npz file"
    if suffix in _ARCHIVE_EXTENSIONS:
        cure = "unpack it and give the folder"
    elif suffix in IMAGE_EXTENSIONS:
        cure = "one image is not enough, give its folder"
    raise DataError(f"{path}: a file, not a folder of images; {cure}")


def _missing(path: Path) -> str:
    partial = path.with_name(path.name + PARTIAL)
    if is_pack(partial):
        return f"{path}: not made yet, an interrupted pack lies in {partial}: run its moco pack command again"
    near = nearest_named(path.name)
    advice = f"; torchvision's data sets go by their names alone: {', '.join(near)}" if near else ""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    where = f" ({missing} does not exist)" if missing != path else ""
    return f"{path}: no such folder or file{where}{advice or '; check the path'}"


def _picture_book() -> tuple[Source, Source]:
    from moco.data import picturebook

    train, test = picturebook.splits()
    return (
        ArraySource(train.images, train.labels, class_names=picturebook.CLASSES, name="picture book"),
        ArraySource(test.images, test.labels, class_names=picturebook.CLASSES, name="picture book (test)"),
    )


def _value_range(source: RangedSource) -> ValueRange | None:
    """What a sample of the images of floats or of more than 8 bits uses; None without those."""
    if not source.seems_deep():
        return None
    found = [source.extent(index) for index in spaced(len(source), _RANGED)]
    return used_range([extent for extent in found if extent is not None])


def _probe(source: FolderSource) -> None:
    """Refuse a folder none of whose images can be read: all of a small one, a sample of a large one."""
    tried = spaced(len(source), _PROBES)
    damage = None
    for index in tried:
        try:
            source.pixels(index)
            return
        except DamagedImage as error:
            damage = damage or error
    raise DataError(f"{source.root}: none of {len(tried)} images tried can be read; the first: {damage}")
