"""PASCAL VOC: a folder with Annotations/*.xml, JPEGImages/ and lists of a split in ImageSets/Main/*.txt."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from moco.data.decode import image_shape
from moco.errors import DataError
from moco.transfer.annotations.checks import Problems, checked_box
from moco.transfer.annotations.record import AnnotatedImage, Annotations, Instance

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NAMED = 3  # examples in a message


def is_voc(path: Path) -> bool:
    """Whether this is a VOC folder, or the list of a split in one."""
    return (_root(path) / "Annotations").is_dir()


def read_voc(path: Path) -> Annotations:
    """The images of a folder, or of a list of names in its ImageSets/Main; categories in alphabetical order.

    Pixels count from 1 there, both corners included: 1 to 1 is a box one pixel wide.

    Raises:
        DataError: no annotations, files that are named and are not there, or XML that cannot be read.
    """
    root = _root(path)
    files = _files(root, path)
    parsed = [(file, _parse(file)) for file in files]
    paths = [_image(root, file, tree) for file, tree in parsed]
    _check_there(paths, path, "images")
    categories = tuple(sorted({name for _, tree in parsed for name in _names(tree)}))
    problems = Problems()
    images = [_annotated(image, tree, categories, problems) for image, (_, tree) in zip(paths, parsed, strict=True)]
    considered = sum(len(list(_names(tree))) for _, tree in parsed)
    return Annotations(str(path), tuple(images), categories, None, tuple(problems.lines), considered)


def _root(path: Path) -> Path:
    """The folder that holds Annotations/."""
    return path.parent.parent.parent if path.suffix == ".txt" else path


def _files(root: Path, path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted((root / "Annotations").glob("*.xml"))
    else:
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        files = [root / "Annotations" / f"{name}.xml" for name in names]
    if not files:
        raise DataError(f"{path} names no annotations: need XML files in {root / 'Annotations'}")
    _check_there(files, path, "annotation files")
    return files


def _check_there(files: Iterable[Path], path: Path, what: str) -> None:
    files = list(files)
    missing = [file for file in files if not file.is_file()]
    if missing:
        named = ", ".join(file.name for file in missing[:_NAMED])
        raise DataError(
            f"{path} names {len(missing)} of {len(files)} {what} that are not in {missing[0].parent} ({named}): "
            "put them there or take them off the list"
        )


def _parse(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise DataError(f"{file} is no VOC annotation: {' '.join(str(error).split())}") from error


def _image(root: Path, file: Path, tree: ElementTree.Element) -> Path:
    """The image of an annotation file: that of its own name where there is one, else the one that it states."""
    folder = root / "JPEGImages"
    named = folder / Path((tree.findtext("filename") or "").strip() or f"{file.stem}.jpg").name
    own = (folder / f"{file.stem}{suffix}" for suffix in (".jpg", named.suffix, ".png", ".jpeg"))
    return next((image for image in own if image.is_file()), named)


def _names(tree: ElementTree.Element) -> Iterable[str]:
    return ((item.findtext("name") or "").strip() for item in tree.findall("object"))


def _annotated(
    image: Path, tree: ElementTree.Element, categories: tuple[str, ...], problems: Problems
) -> AnnotatedImage:
    width, height = (int(float(tree.findtext(f"size/{name}") or 0)) for name in ("width", "height"))
    if min(width, height) < 1:
        height, width = image_shape(image)
    instances = []
    for number, (item, name) in enumerate(zip(tree.findall("object"), _names(tree), strict=True), start=1):
        texts = [item.findtext(f"bndbox/{corner}") or "" for corner in _CORNERS]
        where = f"{image.name}, object {number} ({name})"
        box = checked_box(_from_zero(texts), height, width, where=where, problems=problems)
        if box is not None:
            area = (box[2] - box[0]) * (box[3] - box[1])
            difficult = (item.findtext("difficult") or "0").strip() == "1"
            instances.append(Instance(box, categories.index(name) + 1, difficult, area))
    return AnnotatedImage(image, height, width, tuple(instances))


def _from_zero(texts: list[str]) -> list[float | str]:
    """Edges of pixels instead of their numbers from 1; text that is no number stays for the message."""
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        return list(texts)
    if right <= left or bottom <= top:
        return [left, top, right, bottom]  # a click instead of a box; with the pixel's width it would have an area
    return [left - 1, top - 1, right, bottom]
