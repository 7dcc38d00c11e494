"""Classes of images from a CSV file: one for each image, or any number.

N: images   C: classes
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moco.data.base import UNKNOWN, Source
from moco.errors import DataError

_PATH_NAMES = frozenset({"path", "file", "filename", "image"})
_LABEL_NAMES = frozenset({"label", "class", "target"})
_MULTI_NAMES = frozenset({"labels", "classes"})
_DELIMITERS = ",;\t"
_SEPARATOR = "|"  # of the classes of one image


def with_labels(source: Source, path: str | Path) -> Source:
    """The source with labels from a CSV file of paths and classes.

    The file is UTF-8, with a header that names `path` and `label` columns, or without one and with the path in the
    first and the class in the second column. Paths are relative to the source's folder, or to the CSV file, or
    absolute, or bare file names where those are unique. An empty class means unknown, as does no row. Class names are
    sorted as numbers if all of them are, else as text. Rows that match nothing and a single class become remarks.

    Raises:
        DataError: no such file, a missing column, two different classes for one image, or nothing that matches.
    """
    path = Path(path)
    rows = _read_rows(path, _LABEL_NAMES)
    finder = _Finder(source, path.parent)
    classes: dict[int, str] = {}
    strangers = []
    for item, label in rows:
        index = finder.find(item)
        if index is None:
            strangers.append(item)
            continue
        if classes.setdefault(index, label) != label:
            name = source.item_name(index)
            raise DataError(f"{path}: {name} is labelled both {classes[index]!r} and {label!r}; keep one of them")
    if not classes:
        raise _nothing_matches(path, rows, source)
    names = _sorted_names({label for label in classes.values() if label})
    if not names:
        raise DataError(f"{path}: every label is empty; expected a class beside each path")
    number = {name: position for position, name in enumerate(names)}
    labels = np.full(len(source), UNKNOWN, dtype=np.int64)
    for index, label in classes.items():
        labels[index] = number.get(label, UNKNOWN)
    return source.with_labels(labels, names, remarks=tuple(_doubts(path, rows, strangers, source, names)))


def read_multilabels(path: str | Path, sources: Sequence[Source]) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Classes of the images of several sources from one CSV file.

    Classes of one cell are separated by `|`; several rows for one image add up. An empty cell means that the image has
    none of the classes. Paths are understood as `with_labels` understands them.

    Returns:
        for each source (N, C) float32: 1 where the image has the class, 0 where not, a row of NaN for an image that
        the file does not name; and the class names, sorted as numbers if all of them are, else as text.

    Raises:
        DataError: no such file, a missing column, no class at all, or nothing that matches.
    """
    path = Path(path)
    rows = [(item, [name.strip() for name in cell.split(_SEPARATOR)]) for item, cell in _read_rows(path, _MULTI_NAMES)]
    names = _sorted_names({name for _, cell in rows for name in cell if name})
    if not names:
        raise DataError(f"{path}: every cell of labels is empty; expected classes separated by {_SEPARATOR}")
    number = {name: position for position, name in enumerate(names)}
    found = []
    for source in sources:
        finder = _Finder(source, path.parent)
        targets = np.full((len(source), len(names)), np.nan, dtype=np.float32)
        for item, cell in rows:
            index = finder.find(item)
            if index is not None:
                targets[index] = np.nan_to_num(targets[index])
                targets[index, [number[name] for name in cell if name]] = 1.0
        if np.isnan(targets).all():
            raise _nothing_matches(path, rows, source)
        found.append(targets)
    return found, names


def same_classes(source: Source, test: Source) -> Source:
    """The test source with its labels renumbered to the training classes.

    Raises:
        DataError: a class that does not occur among the training images.
    """
    if source.class_names == test.class_names or not (source.class_names and test.class_names):
        return test
    unknown = sorted(set(test.class_names) - set(source.class_names))
    if unknown:
        raise DataError(
            f"{test.name} has classes that {source.name} has not ({', '.join(unknown[:3])}): "
            "name them alike, add train images of them, or leave those test images out"
        )
    number = np.array([source.class_names.index(name) for name in test.class_names])
    assert test.labels is not None
    return test.with_labels(np.where(test.labels >= 0, number[test.labels], -1), source.class_names)


def unmatched_paths(path: str | Path, sources: Sequence[Source]) -> list[str]:
    """Paths of a CSV file of labels, single or multiple, that are an image of none of the sources.

    Raises:
        DataError: the file is not one of labels.
    """
    path = Path(path)
    rows = _read_rows(path, _MULTI_NAMES if is_multilabel(path) else _LABEL_NAMES)
    finders = [_Finder(source, path.parent) for source in sources]
    return [item for item, _ in rows if all(finder.find(item) is None for finder in finders)]


def is_multilabel(path: str | Path) -> bool:
    """Whether the file's header has a column `labels`, so that an image may have any number of classes."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            words = [word.strip().strip('"').lower() for word in re.split(f"[{_DELIMITERS}]", file.readline())]
    except (OSError, UnicodeDecodeError):  # what is wrong with it is said by whoever reads it
        return False
    return not _PATH_NAMES.isdisjoint(words) and not _MULTI_NAMES.isdisjoint(words)


def _read_rows(path: Path, label_names: frozenset[str]) -> list[tuple[str, str]]:
    """(path, class) of every row, header taken off; `label_names` are the headers that the second may have."""
    if not path.is_file():
        raise DataError(f"{path}: {'not a file' if path.exists() else 'no such file'}; expected a CSV file path,label")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first_line = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=first_line.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8 CSV") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error}); expected rows of path,label") from error
    if not lines:
        raise DataError(f"{path}: the file is empty; expected rows of path,label")
    path_column, label_column, has_header = _columns(lines[0][1], path, label_names)
    rows = []
    for number, cells in lines[has_header:]:
        if len(cells) <= max(path_column, label_column):
            raise DataError(f"{path}, line {number}: {len(cells)} column(s); expected path{delimiter}label")
        rows.append((cells[path_column], cells[label_column]))
    if not rows:
        raise DataError(f"{path}: a header and no rows; expected rows of path,label")
    return rows


def _columns(first: list[str], path: Path, label_names: frozenset[str]) -> tuple[int, int, bool]:
    """Columns of path and class, and whether the first row is a header."""
    words = [cell.lower() for cell in first]
    paths = [position for position, word in enumerate(words) if word in _PATH_NAMES]
    labels = [position for position, word in enumerate(words) if word in label_names]
    if paths and labels:
        return paths[0], labels[0], True
    for column, other, found in (("label", "path", "path" in words), ("path", "label", "label" in words)):
        if found:
            raise DataError(f"{path}: the header names a {other} column and no {column} column: {', '.join(first)}")
    return 0, 1, False


def _doubts(
    path: Path, rows: Sequence[Any], strangers: Sequence[str], source: Source, names: Sequence[str]
) -> Iterator[str]:
    """A line each for rows that name no image, and for a class beside which there is no other."""
    if strangers:
        yield (
            f"{path}: {len(strangers):,} of its {len(rows):,} rows name no image of {source.name}, the first is "
            f"{strangers[0]!r}; the images are called like {source.item_name(0)!r}"
        )
    if len(names) == 1:
        yield f"{path}: one class only, {names[0]!r}: kNN is then right whatever is learnt, give at least two"


def _nothing_matches(path: Path, rows: Sequence[tuple[str, Any]], source: Source) -> DataError:
    return DataError(
        f"{path}: none of its {len(rows)} paths is an image of {source.name}; it says {rows[0][0]!r}, "
        f"the images are called like {source.item_name(0)!r}"
    )


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers: as numbers if all of them are, else as text."""
    if all(name.isascii() and name.lstrip("-").isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


class _Finder:
    """Images by any of the ways in which a CSV file may call them."""

    def __init__(self, source: Source, beside: Path) -> None:
        self._index = {source.item_name(index): index for index in range(len(source))}
        self._roots = [Path(os.path.abspath(root)) for root in (getattr(source, "root", None),) if root is not None]
        self._roots += [root.resolve() for root in self._roots if root.resolve() not in self._roots]
        self._beside = Path(os.path.abspath(beside))
        self._by_file_name: dict[str, int | None] | None = None

    def find(self, item: str) -> int | None:
        """Position of the image in the source; None if it has no such image, or several."""
        if not item:
            return None
        item = item if "/" in item else item.replace("\\", "/")
        plain = os.path.normpath(item).replace(os.sep, "/")
        for name in (item, plain, *self._below_roots(item)):
            if name in self._index:
                return self._index[name]
        return self._unique_file_name(plain) if "/" not in plain else None

    def _below_roots(self, item: str) -> list[str]:
        """The path, absolute or relative to the CSV file, as seen from the source's folder."""
        full = Path(os.path.normpath(self._beside / item))
        return [full.relative_to(root).as_posix() for root in self._roots if full.is_relative_to(root)]

    def _unique_file_name(self, name: str) -> int | None:
        if self._by_file_name is None:
            self._by_file_name = {}
            for path, index in self._index.items():
                file_name = path.rpartition("/")[2]
                self._by_file_name[file_name] = None if file_name in self._by_file_name else index
        return self._by_file_name.get(name)
