"""Small persons with surfaces, as DensePose-COCO has them: rectangles, half of each one part and half another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moco.transfer.annotations import open_annotations
from moco.transfer.annotations.masks import runs_of
from moco.transfer.dense_pose.densepose import DensePose
from moco.transfer.dense_pose.geodesic import Geodesics, read_geodesics
from moco.transfer.detection.detection import Detection
from tests.transfer.drawn import HEIGHT, WIDTH, settings

UPPER, LOWER = 2, 9  # parts


def draw_people(folder: Path, count: int = 4, *, seed: int = 0, name: str = "people_train.json") -> Path:
    """A file of `count` images with a person each, whose upper half is red and of one part, whose lower half green and
    of another; U runs from left to right, V from the top of the part down. The first image has a second person without
    points.
    """
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    persons: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        pixels = generator.integers(0, 80, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        images.append({"id": number, "file_name": f"p{seed}-{number}.png", "height": HEIGHT, "width": WIDTH})
        left, top = generator.integers(0, 16, 2).tolist()
        persons.append(person(len(persons) + 1, number, (left, top, 16, 24), generator))
        _paint(pixels, left, top)
        if number == 1:
            persons.append({**_plain(len(persons) + 1, number, (44, 20, 16, 24))})
            _paint(pixels, 44, 20)
        Image.fromarray(pixels).save(folder / "images" / f"p{seed}-{number}.png")
    file = folder / name
    content = {"images": images, "annotations": persons, "categories": [{"id": 1, "name": "person"}]}
    file.write_text(json.dumps(content))
    return file


def _paint(pixels: np.ndarray, left: int, top: int) -> None:
    pixels[top : top + 12, left : left + 16, 0] = 250
    pixels[top + 12 : top + 24, left : left + 16, 1] = 250


def _plain(number: int, image: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    area = box[2] * box[3]
    return {"id": number, "image_id": image, "category_id": 1, "bbox": list(box), "area": area, "iscrowd": 0}


def person(number: int, image: int, box: tuple[int, int, int, int], generator: np.random.Generator) -> dict[str, Any]:
    """One annotation with twenty points."""
    x, y = generator.uniform(10, 245, (2, 20))
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 32:224] = 1  # the silhouette leaves the box's margins free
    runs = runs_of(mask)
    silhouette = {"size": [256, 256], "counts": runs["counts"].decode("ascii")}
    upper = y < 127.5
    return {
        **_plain(number, image, box),
        "dp_x": x.tolist(),
        "dp_y": y.tolist(),
        "dp_I": np.where(upper, UPPER, LOWER).tolist(),
        "dp_U": (x / 255).tolist(),
        "dp_V": (np.where(upper, y, y - 127.5) / 127.5).tolist(),
        "dp_masks": [silhouette, [], []],
    }


def geodesic_arrays(across: int = 4, apart: float = 1.0) -> dict[str, np.ndarray]:
    """24 charts of `across` by `across` vertices; within a chart the distance is that of U and V times 0.2, between
    charts `apart`.
    """
    steps = (np.arange(across) + 0.5) / across
    u, v = (values.reshape(-1) for values in np.meshgrid(steps, steps))
    part = np.repeat(np.arange(1, 25), across**2)
    u, v = np.tile(u, 24), np.tile(v, 24)
    distances = np.full((len(part), len(part)), apart, np.float32)
    for chart in range(1, 25):
        own = part == chart
        inside = 0.2 * np.hypot(u[own][:, None] - u[own], v[own][:, None] - v[own])
        distances[np.ix_(own, own)] = inside
    return {"part": part, "u": u.astype(np.float32), "v": v.astype(np.float32), "distances": distances}


def write_geodesics(file: Path, **changes: Any) -> Path:
    """The arrays as .npz; a change of None leaves one out."""
    arrays = {name: value for name, value in (geodesic_arrays() | changes).items() if value is not None}
    np.savez(file, **arrays)
    return file


def geodesics(folder: Path) -> Geodesics:
    """Read from a file."""
    return read_geodesics(write_geodesics(folder / "distances.npz"))


def make_people(folder: Path, **changes: Any) -> DensePose:
    """The task on four train and three test images."""
    train = open_annotations(draw_people(folder, 4))
    test = open_annotations(draw_people(folder, 3, seed=1, name="people_test.json"))
    detector = settings(rois=4, proposals=8, detections=5, **changes)
    return DensePose(Detection("densepose", train, test, detector=detector, sides=(48,), batch_size=2))
