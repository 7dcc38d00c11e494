"""Cityscapes instances: gtFine/*_instanceIds.png, where 1000 times the class plus a number is an object, and the class
alone a group of objects that nobody has told apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moco.data.decode import image_shape
from moco.errors import DataError
from moco.transfer.annotations.checks import Problems
from moco.transfer.annotations.masks import runs_of
from moco.transfer.annotations.record import AnnotatedImage, Annotations, Instance
from moco.transfer.label_maps.cityscapes import THINGS, cityscapes_files
from moco.transfer.label_maps.reading import read_values

_PER_CLASS = 1000
_CATEGORIES = {label: place for place, label in enumerate(THINGS, start=1)}


def read_cityscapes(path: Path, *, use: str) -> Annotations:
    """The 8 classes with instances of a split; groups are crowds. An image whose file of instances is missing, or of
    another size, is left out, counted and listed.

    Args:
        path: the folder, or a split in it; see `moco.transfer.label_maps.cityscapes.cityscapes_files`.
        use: "train" or "test".

    Raises:
        DataError: no image with instances, or a file that cannot be read.
        ConfigError: faster-coco-eval is missing.
    """
    problems, images = Problems(), []
    files = cityscapes_files(path, use=use, kind="instanceIds")
    for image, file in files:
        shape = image_shape(image)
        if not file.is_file():
            problems.add(image.name, f"{file} is not there: image left out")
        elif image_shape(file) != shape:
            problems.add(image.name, f"{file.name} is of another size: image left out")
        else:
            images.append(AnnotatedImage(image, *shape, instances_of(read_values(file))))
    if not images:
        raise DataError(
            f"{path}: none of {len(files)} images has instances ({problems.lines[0]}): need gtFine, unpacked"
        )
    considered = sum(len(image.instances) for image in images) + len(problems.lines)
    return Annotations(str(path), tuple(images), tuple(THINGS.values()), None, tuple(problems.lines), considered)


def instances_of(ids: np.ndarray) -> tuple[Instance, ...]:
    """Objects and groups in a map (H, W) of instance ids, in the order of the ids."""
    found = []
    for number in np.flatnonzero(np.bincount(ids.reshape(-1))).tolist():
        group = number < _PER_CLASS
        category = _CATEGORIES.get(number if group else number // _PER_CLASS)
        if category is None:
            continue
        mask = ids == number
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        runs = runs_of(mask)
        outline = {"size": runs["size"], "counts": runs["counts"].decode("ascii")}
        found.append(Instance(box, category, group, float(mask.sum()), outline))
    return tuple(found)
