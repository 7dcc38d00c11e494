"""A part of a folder, chosen by patterns on the paths of its files."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Sequence

from moco.data.base import Source
from moco.data.folder import FolderSource
from moco.errors import DataError


def matching(source: Source, include: Sequence[str], exclude: Sequence[str]) -> Source:
    """The images of a folder that some pattern of `include` fits, or all without one, and none of `exclude`.

    A pattern is a glob on the path below the folder, with forward slashes; `*` fits `/` too, so that `*.png` holds at
    any depth. A pattern that fits a folder holds for all below it. Classes are those of the folders that are left.

    Raises:
        DataError: the images have no paths, or nothing is left.
    """
    if not include and not exclude:
        return source
    if not isinstance(source, FolderSource):
        raise DataError(f"include, exclude with {source.name}: they choose files of a folder, leave them out")
    names = [source.item_name(index) for index in range(len(source))]
    wanted, unwanted = _fits(include or ["*"]), _fits(exclude)
    kept = [index for index, name in enumerate(names) if wanted(name) and not unwanted(name)]
    if not kept:
        raise DataError(f"include, exclude leave none of {len(names)} images of {source.name}, such as {names[0]}")
    paths = (os.fsencode(names[index].replace("/", os.sep)) for index in kept)
    alone = FolderSource.from_names(source.root, paths)  # as if there were no other files
    return source.subset(kept).with_labels(alone.labels, alone.class_names)


def check_patterns(source: Source, patterns: Sequence[str]) -> None:
    """Refuse a pattern that fits no image: it would change nothing.

    Raises:
        DataError: there is one.
    """
    names = [source.item_name(index) for index in range(len(source))] if patterns else []
    for pattern in patterns:
        if not any(map(_fits([pattern]), names)):
            raise DataError(
                f"{pattern!r} fits none of {len(names)} images of {source.name}: expected a glob on paths such as "
                f"{names[0]}"
            )


def _fits(patterns: Sequence[str]) -> Callable[[str], object]:
    globs = [glob for pattern in patterns for glob in (pattern, f"{pattern.rstrip('/')}/*")]
    globs += [glob.removeprefix("**/") for glob in globs]
    return re.compile("|".join(map(fnmatch.translate, globs)) or r"(?!)").match
