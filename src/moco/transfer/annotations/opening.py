"""Annotations by path, and whether those of the test fit those that are learnt from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from moco.errors import DataError
from moco.transfer.annotations.cityscapes import read_cityscapes
from moco.transfer.annotations.coco import read_coco
from moco.transfer.annotations.record import Annotations
from moco.transfer.annotations.voc import is_voc, read_voc
from moco.transfer.label_maps.cityscapes import is_cityscapes


def open_annotations(path: str | Path, *, images: str | Path | None = None, use: str = "train") -> Annotations:
    """A COCO file (.json), a VOC folder, a list in a VOC folder's ImageSets/Main (.txt), or a Cityscapes folder.

    Args:
        path: the file or folder.
        images: folder of a COCO file's images, where it is not next to it.
        use: "train" or "test": which split of a whole Cityscapes folder.

    Raises:
        DataError: it is none of these, or cannot be used; the message says why.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path} is not there: need a COCO file (.json), a VOC folder or a VOC list (.txt)")
    if path.suffix == ".json":
        found = read_coco(path, None if images is None else Path(images).expanduser())
    elif images is not None:
        raise DataError(f"images {images} beside {path}: only a COCO file has its images elsewhere; leave it out")
    elif is_cityscapes(path):
        found = read_cityscapes(path, use=use)
    elif is_voc(path):
        found = read_voc(path)
    else:
        folders = "no VOC folder with Annotations/ and JPEGImages/, no Cityscapes folder"
        raise DataError(f"{path} is no COCO file (.json), {folders}")
    if not any(image.instances for image in found.images):
        raise DataError(f"{path}: none of its {len(found.images)} images holds an object that can be used")
    return found


def same_categories(train: Annotations, test: Annotations) -> tuple[Annotations, list[str]]:
    """The test annotations with the categories of the train ones, by name, and what the reader should know.

    Raises:
        DataError: the test has objects of categories that the train annotations do not list, or other keypoints.
    """
    numbers = {name: number for number, name in enumerate(train.categories, start=1)}
    used = {instance.category for image in test.images for instance in image.instances}
    unknown = [name for number, name in enumerate(test.categories, start=1) if number in used and name not in numbers]
    if unknown:
        raise DataError(
            f"{test.source} has objects of {len(unknown)} categories that {train.source} does not know "
            f"({', '.join(unknown[:3])}): nothing can learn them; take them out or add them to the train data"
        )
    if train.skeleton is not None and test.skeleton is not None and train.skeleton.names != test.skeleton.names:
        raise DataError(f"{test.source} has other keypoints than {train.source}: need the same, in the same order")
    matched = tuple(
        dataclasses.replace(
            image,
            instances=tuple(
                dataclasses.replace(instance, category=numbers[test.categories[instance.category - 1]])
                for instance in image.instances
            ),
        )
        for image in test.images
    )
    tested = {test.categories[number - 1] for number in used}
    learnt = {i.category for image in train.images for i in image.instances if not i.crowd}
    unlearnt = sorted(tested - {train.categories[number - 1] for number in learnt})
    absent = [train.categories[number - 1] for number in sorted(learnt) if train.categories[number - 1] not in tested]
    notes = []
    if unlearnt:
        notes.append(f"{len(unlearnt)} test categories without a train object ({_few(unlearnt)}): their AP will be 0")
    if absent:
        notes.append(f"{len(absent)} train categories without a test object ({_few(absent)}): they are not scored")
    return dataclasses.replace(test, images=matched, categories=train.categories), notes


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
