"""What the folders of a data set say: annotations beside the images, parts of a data set taken for classes."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from moco.data.base import UNKNOWN, Source
from moco.data.folder import PART_NAMES, FolderSource

_NAMED = 3  # examples in a message
# Folders that hold pictures of annotations, by the names in common use (CamVid, COCO, VOC, Cityscapes, KITTI).
_ANNOTATIONS = re.compile(
    r"annot(ation)?s?$|(^|[_-])(masks?|labels?|seg|gt|gtfine|gtcoarse)$|^(ground[_-]?truth|panoptic|semantic"
    r"|instances?|segmentation\w*|depth|disparity)$",
    re.IGNORECASE,
)
_IMAGES = re.compile(r"^(jpeg|leftimg8bit)?_?(images?|imgs?|photos?|pictures?)$|^leftimg8bit$", re.IGNORECASE)


def doubts(source: Source) -> Iterator[str]:
    """One line, with the remedy, for each thing that looks as if other images or classes were meant."""
    if isinstance(source, FolderSource):
        folders = Counter(source.item_name(index).rpartition("/")[0] for index in range(len(source)))
        yield from _annotations(folders)
        yield from _parts(source, folders)
        layout = [name for name in source.class_names if _IMAGES.search(name)]
        if layout:
            yield f"is {layout[0]!r} a class? If not, give that folder itself, or --knn-evaluations 0"
    if source.labels is not None:
        counts = np.bincount(source.labels[source.labels != UNKNOWN])
        single, classes = int((counts == 1).sum()), int((counts > 0).sum())
        if 2 * single > classes:
            yield (
                f"{single} of {classes} classes have one image only, which no kNN can find again: give other classes "
                "with --labels, or --knn-evaluations 0"
            )


def _annotations(folders: Counter[str]) -> Iterator[str]:
    found: Counter[str] = Counter()
    for folder, count in folders.items():
        parts = folder.split("/")
        depth = next((at for at, name in enumerate(parts) if _ANNOTATIONS.search(name)), None)
        if depth is not None:
            found["/".join(parts[: depth + 1])] += count
    if 0 < found.total() < folders.total():
        names = sorted({folder.rpartition("/")[2] for folder in found})
        patterns = [shlex.quote(name if name in found else f"**/{name}") for name in names]
        remedy = " ".join(f"--exclude {pattern}" for pattern in patterns)
        yield (
            f"{found.total():,} of the images lie in folders called like annotations ({_named(found)}) and are learnt "
            f"from: if they are none, leave them out with {remedy}"
        )


def _parts(source: FolderSource, folders: Counter[str]) -> Iterator[str]:
    parts = sorted({first for first in (folder.partition("/")[0] for folder in folders) if first.lower() in PART_NAMES})
    nested = {part for part in parts if any(folder.startswith(f"{part}/") for folder in folders)}
    if not nested and len(parts) < 2:
        return
    train = next((part for part in parts if part.lower().startswith("train")), parts[0])
    others = [part for part in parts if part != train and part in nested]
    taken = " and taken for classes" if set(parts) & set(source.class_names) else ""
    remedy = f"to learn from a part alone give {source.root / train}"
    if others:
        remedy += f" with --test {source.root / others[0]}"
    yield f"{_named(parts)}: parts of a data set by their names; all are learnt from{taken}: {remedy}"


def _named(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
