"""COCO JSON: boxes, polygons, run lengths, crowds, keypoints and DensePose's points of the body's surface."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moco.errors import DataError
from moco.transfer.annotations.checks import (
    Problems,
    checked_box,
    checked_keypoints,
    checked_polygons,
    checked_runs,
)
from moco.transfer.annotations.record import AnnotatedImage, Annotations, Instance, Skeleton
from moco.transfer.annotations.surface import checked_surface

_PARTS = ("images", "annotations", "categories")
_NAMED = 3  # examples in a message


def read_coco(path: Path, images: Path | None = None) -> Annotations:
    """All images of the file; categories in the order of their numbers, which need not be without gaps.

    Args:
        path: the JSON file.
        images: folder of the images; by default the first of these that holds the first image: the file's own,
            images/SPLIT, images and SPLIT there and one level up, where SPLIT ends the file's name, as in
            instances_val2017.json.

    Raises:
        DataError: it is no COCO file, or names images that are not there.
    """
    content = _content(path)
    try:
        return _read(path, content, images)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path} has an entry that is not as COCO has it ({type(error).__name__}: {said})") from error


def _read(path: Path, content: dict[str, list[Any]], images: Path | None) -> Annotations:
    file_names = [_file_name(path, image) for image in content["images"]]
    folder = images or _find_folder(path, file_names[0])
    files = [_located(folder, name) for name in file_names]
    _check_there(path, folder, dict(zip(file_names, files, strict=True)))
    entries = sorted(content["categories"], key=lambda entry: int(_value(path, entry, "id")))
    numbers = {entry["id"]: index for index, entry in enumerate(entries, start=1)}
    names = tuple(str(_value(path, entry, "name")) for entry in entries)
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[_value(path, annotation, "image_id")].append(annotation)
    unknown = by_image.keys() - {image.get("id") for image in content["images"]}
    if unknown:
        raise DataError(f"{path}: annotations of {len(unknown)} images that it does not list, the first {min(unknown)}")
    problems, skeleton = Problems(), _skeleton(path, entries)
    found = []
    for image, name, file in zip(content["images"], file_names, files, strict=True):
        shape = int(_value(path, image, "height")), int(_value(path, image, "width"))
        reader = _Reader(path, name, *shape, numbers, skeleton, problems)
        instances = filter(None, map(reader.instance, by_image[image.get("id")]))
        found.append(AnnotatedImage(file, *shape, tuple(instances)))
    total = len(content["annotations"])
    return Annotations(str(path), tuple(found), names, skeleton, tuple(problems.lines), total)


class _Reader:
    """The annotations of one image."""

    def __init__(
        self,
        file: Path,
        name: str,
        height: int,
        width: int,
        numbers: Mapping[int, int],
        skeleton: Skeleton | None,
        problems: Problems,
    ) -> None:
        self.file, self.name, self.shape = file, name, (height, width)
        self.numbers, self.skeleton, self.problems = numbers, skeleton, problems

    def instance(self, annotation: Mapping[str, Any]) -> Instance | None:
        """One object; None, with a line in the problems, for one that is left out."""
        where = f"{self.name}, annotation {annotation.get('id', '?')}"
        category = _value(self.file, annotation, "category_id")
        if category not in self.numbers:
            raise DataError(f"{self.file}: {where} is of category {category}, which the file does not list")
        stated = annotation.get("bbox")
        corners: Any = stated
        if isinstance(stated, list) and len(stated) == 4 and all(isinstance(value, int | float) for value in stated):
            left, top, width, height = stated
            corners = [left, top, left + width, top + height]
        box = checked_box(corners, *self.shape, where=where, problems=self.problems)
        if box is None:
            return None
        outline, points = annotation.get("segmentation"), annotation.get("keypoints")
        if outline:
            outline = self._outline(outline, where)
            if outline is None:
                return None
        if points is not None and self.skeleton is not None:
            count = len(self.skeleton.names)
            points = checked_keypoints(points, count, where=where, problems=self.problems)
            if points is None:
                return None
        else:
            points = None
        area = float(annotation.get("area") or (box[2] - box[0]) * (box[3] - box[1]))
        crowd = bool(annotation.get("iscrowd"))
        surface = checked_surface(annotation, where=where, problems=self.problems)
        return Instance(box, self.numbers[category], crowd, area, outline or None, points, surface)

    def _outline(self, outline: Any, where: str) -> Any:
        if isinstance(outline, list):
            return checked_polygons(outline, where=where, problems=self.problems)
        return checked_runs(outline, *self.shape, where=where, problems=self.problems)


def _content(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON that can be read: {' '.join(str(error).split())[:200]}") from error
    missing = [part for part in _PARTS if not isinstance(content, dict) or not isinstance(content.get(part), list)]
    if missing:
        raise DataError(f"{path} is no COCO file: need the lists {', '.join(_PARTS)}, without {', '.join(missing)}")
    if not content["images"] or not content["categories"]:
        raise DataError(f"{path} lists no images or no categories: need at least one of each")
    return content  # type: ignore[no-any-return]


def _value(path: Path, entry: Any, name: str) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise DataError(f"{path}: an entry without {name}: {str(entry)[:100]}")
    return entry[name]


def _file_name(path: Path, image: Any) -> str:
    """As the file has it; LVIS v1 has the address of COCO's image instead, of which the split's folder and the name are
    kept: train2017/000000391895.jpg, also in its val file.
    """
    if isinstance(image, dict) and "file_name" not in image and "coco_url" in image:
        return "/".join(str(image["coco_url"]).split("/")[-2:])
    return str(_value(path, image, "file_name"))


def _located(folder: Path, name: str) -> Path:
    """Where the image lies: by its name, else without the folder of its split."""
    file, flat = folder / name, folder / Path(name).name
    return flat if not file.is_file() and flat.is_file() else file


def _find_folder(path: Path, first: str) -> Path:
    split = path.stem.rpartition("_")[2]
    above = (path.parent, path.parent.parent)
    folders = [base / part for base in above for part in ("", f"images/{split}", "images", split)]
    for folder in folders:
        if _located(folder, first).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in folders)
    raise DataError(f"{path}: its first image {first} is in none of {tried}: name the folder of its images")


def _check_there(path: Path, folder: Path, files: dict[str, Path]) -> None:
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise DataError(
            f"{path} names {len(missing)} of {len(files)} images that are not in {folder} "
            f"({', '.join(missing[:_NAMED])}): put them there or take them out of the file"
        )


def _skeleton(path: Path, categories: list[Any]) -> Skeleton | None:
    """That of the one category which has keypoints."""
    having = [entry for entry in categories if entry.get("keypoints")]
    if len(having) > 1:
        named = ", ".join(str(entry["name"]) for entry in having[:_NAMED])
        raise DataError(f"{path}: keypoints for {len(having)} categories ({named}): need one category with keypoints")
    if not having:
        return None
    names = tuple(map(str, having[0]["keypoints"]))
    edges = tuple((int(a) - 1, int(b) - 1) for a, b in having[0].get("skeleton") or ())
    if any(not 0 <= end < len(names) for edge in edges for end in edge):
        raise DataError(f"{path}: a skeleton that joins keypoints other than 1 to {len(names)}")
    return Skeleton(names, edges)
