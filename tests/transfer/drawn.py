"""Small annotated images: bright rectangles on noise, as VOC and as COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moco.normalization import IMAGENET
from moco.transfer.annotations import open_annotations
from moco.transfer.detection.detection import Detection, Name
from moco.transfer.networks.detector import DetectorSettings

WIDTH, HEIGHT = 64, 48
CLASSES = ("red", "green")
POINTS = ("nose", "left_ear", "right_ear")


def draw_coco(folder: Path, count: int = 6, *, seed: int = 0, name: str = "instances_train.json") -> Path:
    """A COCO file with `count` images of one or two rectangles, polygons and three keypoints each."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        pixels = generator.integers(0, 80, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        images.append({"id": number, "file_name": f"{seed}-{number}.png", "height": HEIGHT, "width": WIDTH})
        for _ in range(int(generator.integers(1, 3))):
            kind, (left, top) = int(generator.integers(2)), generator.integers(0, 24, 2).tolist()
            width, height = generator.integers(12, 24, 2).tolist()
            pixels[top : top + height, left : left + width, kind] = 250
            objects.append(coco_object(len(objects) + 1, number, kind + 1, (left, top, width, height)))
        Image.fromarray(pixels).save(folder / "images" / f"{seed}-{number}.png")
    categories = [{"id": 10 * (index + 1), "name": each} for index, each in enumerate(CLASSES)]
    categories[0] |= {"keypoints": list(POINTS), "skeleton": [[1, 2], [1, 3]]}
    file = folder / name
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return file


def coco_object(number: int, image: int, kind: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """One annotation: the rectangle as a box, a polygon, and keypoints at its upper corners and its middle."""
    left, top, width, height = box
    right, bottom = left + width, top + height
    points = [left + width / 2, top + height / 2, 2, left, top, 2, right, top, 1]
    return {
        "id": number,
        "image_id": image,
        "category_id": 10 * kind,
        "bbox": list(box),
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        "keypoints": points,
        "num_keypoints": 3,
    }


def changed(file: Path, change: Any) -> Path:
    """The COCO file after `change(content)`."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def draw_voc(folder: Path, boxes: dict[str, list[tuple[str, int, int, int, int]]]) -> Path:
    """A VOC folder: of each image the name and corners of its objects, as the XML has them."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, objects in boxes.items():
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / f"{name}.jpg")
        items = "".join(
            f"<object><name>{kind}</name><difficult>{int(kind == 'hard')}</difficult><bndbox><xmin>{a}</xmin>"
            f"<ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
            for kind, a, b, c, d in objects
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{items}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    return folder


def settings(**changes: Any) -> DetectorSettings:
    """A detector as small as it gets."""
    small = {"architecture": "fpn", "categories": 2, "side": 32, "longest": 64, "mean": IMAGENET[0], "std": IMAGENET[1]}
    return DetectorSettings(**(small | {"width": 8, "hidden": 16, "rois": 8, "proposals": 20} | changes))


def make_task(folder: Path, name: Name = "detection", **changes: Any) -> Detection:
    """The task on six train and four test images."""
    train = open_annotations(draw_coco(folder, 6))
    test = open_annotations(draw_coco(folder, 4, seed=1, name="instances_test.json"))
    return Detection(name, train, test, detector=settings(**changes), sides=(32,), batch_size=2)
