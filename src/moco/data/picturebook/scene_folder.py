"""Scenes on the disk as anyone's annotated images: PNG files, COCO and LVIS JSON, label maps.

OUT/KIND/train/*.png             images; the same for test
OUT/KIND/trainannot/*.png        label maps: 0 background, else 1 + class; OUT/KIND/classes.txt names them
OUT/KIND/instances_train.json    boxes and polygons; of long-tail with what LVIS adds
OUT/people/keypoints_train.json  persons alone, with keypoints
OUT/people/densepose_train.json  the same with points of their surfaces, as DensePose-COCO has them
OUT/people/trainparts/*.png      label maps of a person's parts, left and right told apart; parts.txt names them
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moco import atomic
from moco.data.picturebook.annotation import (
    KEYPOINTS,
    PARTS,
    PERSON,
    SKELETON,
    Annotation,
    annotate,
    class_map,
    part_map,
)
from moco.data.picturebook.drawing import Placed
from moco.data.picturebook.scene import KINDS, draw_scene, scene_stream, surface_stream
from moco.data.picturebook.shapes import CLASSES
from moco.data.picturebook.surface import dense_pose
from moco.errors import DataError, RunError

LONG_TAIL, PEOPLE = "long-tail", "people"
_RARE, _COMMON = 10, 100  # train images of a category, at most, as LVIS has it
Scene = tuple[str, list[Placed]]  # file name, objects


def write_scenes(out: Path, *, train: int, test: int, size: int, seed: int) -> dict[str, dict[str, int]]:
    """Draw scenes of every kind with their annotations into the folder `out`, which is there whole or not at all.

    Scene i of a part is the same whatever their number; train and test share no scene.

    Returns:
        scenes and objects of each KIND/PART.

    Raises:
        DataError: `out` is there already.
        RunError: the file system refused.
    """
    if out.exists():
        raise DataError(f"{out} is there already: choose another folder, or remove it")
    partial = out.with_name(f".{out.name}.partial")
    counts: dict[str, dict[str, int]] = {}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for kind in KINDS:
            counts |= _write_kind(partial / kind, kind, {"train": train, "test": test}, size, seed)
        os.replace(partial, out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {atomic.reason(error)}; nothing was written there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _write_kind(folder: Path, kind: str, numbers: dict[str, int], size: int, seed: int) -> dict[str, dict[str, int]]:
    folder.mkdir(parents=True)
    _write_lines(folder / "classes.txt", ("background", *CLASSES))
    if kind == PEOPLE:
        _write_lines(folder / "parts.txt", ("background", *PARTS))
    frequencies, counts = None, {}
    for place, (part, number) in enumerate(numbers.items()):
        weights = KINDS[kind].weights if part == "train" else KINDS[kind].test_weights
        scenes: list[Scene] = []
        for name in ("", "annot", *(["parts"] if kind == PEOPLE else [])):
            (folder / f"{part}{name}").mkdir()
        for index in range(number):
            pixels, objects = draw_scene(weights, size, scene_stream(2 * seed + place, kind, index))
            scenes.append((f"{index:06}.png", objects))
            _write_images(folder, part, scenes[-1], pixels, parts=kind == PEOPLE)
        content = coco(scenes, size)
        if kind == LONG_TAIL:
            frequencies = frequencies or _frequencies(scenes)
            content = as_lvis(content, frequencies)
        _write_json(folder / f"instances_{part}.json", content)
        if kind == PEOPLE:
            persons = coco(scenes, size, persons=True)
            _write_json(folder / f"keypoints_{part}.json", persons)
            _write_json(folder / f"densepose_{part}.json", with_surfaces(persons, scenes, size, 2 * seed + place))
        counts[f"{kind}/{part}"] = {"scenes": number, "objects": len(content["annotations"])}
    return counts


def _write_images(folder: Path, part: str, scene: Scene, pixels: np.ndarray, *, parts: bool) -> None:
    file, objects = scene
    maps = {"": pixels, "annot": class_map(objects, CLASSES, pixels.shape[0])}
    if parts:
        maps["parts"] = part_map(objects, pixels.shape[0])
    for name, content in maps.items():
        Image.fromarray(content).save(folder / f"{part}{name}" / file)


def coco(scenes: Sequence[Scene], size: int, *, persons: bool = False) -> dict[str, Any]:
    """A COCO file's content: every object with box and polygons; or persons alone, with their keypoints."""
    names = (PERSON,) if persons else CLASSES
    categories: list[dict[str, Any]] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    if persons:
        categories[0] |= {"keypoints": list(KEYPOINTS), "skeleton": [list(edge) for edge in SKELETON]}
    images: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for number, (file, objects) in enumerate(scenes, start=1):
        images.append({"id": number, "file_name": file, "height": size, "width": size})
        for each in annotate(objects, size):
            if each.name in names:
                own = {"id": len(entries) + 1, "image_id": number, "category_id": names.index(each.name) + 1}
                entries.append(own | _entry(each, keypoints=persons))
    return {"images": images, "annotations": entries, "categories": categories}


def _entry(found: Annotation, *, keypoints: bool) -> dict[str, Any]:
    left, top, right, bottom = found.box
    entry: dict[str, Any] = {
        "bbox": [left, top, right - left, bottom - top],
        "area": found.area,
        "iscrowd": 0,
        "segmentation": [list(polygon) for polygon in found.polygons],
    }
    if keypoints and found.keypoints is not None:
        flat = [value for point in found.keypoints for value in point]
        entry |= {"keypoints": flat, "num_keypoints": sum(seen > 0 for *_, seen in found.keypoints)}
    return entry


def as_lvis(content: dict[str, Any], frequencies: dict[str, str]) -> dict[str, Any]:
    """A COCO file's content with what LVIS adds: here every image is annotated for all categories."""
    shown: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for entry in content["annotations"]:
        shown[entry["image_id"]].add(entry["category_id"])
    categories = [{**each, "frequency": frequencies[each["name"]]} for each in content["categories"]]
    every = {each["id"] for each in categories}
    images = [
        {**each, "neg_category_ids": sorted(every - shown[each["id"]]), "not_exhaustive_category_ids": []}
        for each in content["images"]
    ]
    return {**content, "images": images, "categories": categories}


def with_surfaces(content: dict[str, Any], scenes: Sequence[Scene], size: int, seed: int) -> dict[str, Any]:
    """A file of persons alone with what DensePose-COCO adds; `seed` is the one that the scenes are drawn with."""
    persons: list[dict[str, Any]] = []
    for index, (_, objects) in enumerate(scenes):
        generator, parts = surface_stream(seed, index), part_map(objects, size)
        for placed, found in zip(objects, annotate(objects, size), strict=True):
            if found.name == PERSON:
                persons.append(dense_pose(placed, found.box, parts, generator))
    entries = [entry | own for entry, own in zip(content["annotations"], persons, strict=True)]
    return {**content, "annotations": entries}


def _frequencies(scenes: Iterable[Scene]) -> dict[str, str]:
    counts = Counter(name for _, objects in scenes for name in {each.name for each in objects})
    return {name: "r" if counts[name] <= _RARE else "c" if counts[name] <= _COMMON else "f" for name in CLASSES}


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
