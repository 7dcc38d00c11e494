"""Miniature folders of images with label maps, as the data sets have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def stripes(number: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A label map of classes 0 to 2 in vertical stripes of a width that depends on the number."""
    columns = np.arange(width) // (8 + number % 5) % 3
    return np.broadcast_to(columns.astype(np.uint8), (height, width)).copy()


def colored(labels: np.ndarray) -> np.ndarray:
    """An image whose colors tell the classes."""
    return COLORS[labels]


def write_pair(image: Path, file: Path, labels: np.ndarray, values: np.ndarray | None = None) -> None:
    """The image of a label map, and the map with other values in the file."""
    for path in (image, file):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colored(labels)).save(image)
    Image.fromarray(labels if values is None else values).save(file)


def write_annot(folder: Path, count: int = 6, *, void: int | None = None, prefix: str = "") -> Path:
    """NAME and NAMEannot; with `void`, the first row of each map has this value."""
    for number in range(count):
        labels = stripes(number)
        values = labels.copy()
        if void is not None:
            values[0] = void
        name = f"{prefix}{number}.png"
        write_pair(folder / name, folder.parent / f"{folder.name}annot" / name, labels, values)
    return folder


def write_voc(folder: Path) -> Path:
    """Two images in train.txt and one in val.txt, maps with a palette and a void row."""
    for number, name in enumerate(("a", "b", "c")):
        values = stripes(number)
        values[:2] = 255
        image, file = folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png"
        write_pair(image, file, stripes(number), values)
        indexed = Image.fromarray(values)
        indexed.putpalette(list(range(256)) * 3)
        indexed.save(file)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    return folder


def write_cityscapes(folder: Path) -> Path:
    """Two train images and a val image with road (7), sky (23), cars (26) and persons (24), one of them a group."""
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            stem = f"town_{number:06d}_000019"
            labels = np.full((40, 56), 7, np.uint8)
            labels[:10], labels[30:34] = 23, 1  # 1: ego vehicle, void
            labels[12:20, 5:15], labels[12:20, 20:30], labels[22:28, 40:50] = 26, 26, 24
            instances = labels.astype(np.uint16)
            instances[12:20, 5:15], instances[12:20, 20:30] = 26000, 26001  # the person stays a group: 24
            image = folder / "leftImg8bit" / split / "town" / f"{stem}_leftImg8bit.png"
            maps = folder / "gtFine" / split / "town"
            write_pair(image, maps / f"{stem}_gtFine_labelIds.png", np.minimum(labels // 10, 2), labels)
            Image.fromarray(instances).save(maps / f"{stem}_gtFine_instanceIds.png")
    return folder
