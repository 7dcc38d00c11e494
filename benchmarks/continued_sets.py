"""Three labelled image sets of domains that ImageNet does not cover, 96 x 96 px, for `continued.py`.

    python benchmarks/continued_sets.py --bccd BCCD_voc --camvid camvid --cifar cifar10_jpeg.npz --out sets

bccd: blood cells cut out of microscope images, by cell type (test: the cells of a quarter of the images).
camvid: tiles of street scenes, by the class of most of their middle (the data set's own test part).
cifar: the first 500 training and 100 test images of each class of CIFAR-10, enlarged.
Everything is drawn from the seed. Prints how many images each class has.
"""

from __future__ import annotations

import argparse
import io
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
# Shares of the commonest classes that are kept, so that none is most of the set.
KEPT_CELLS = {"RBC": 0.15}
KEPT_TILES = {"sky": 0.12, "building": 0.12, "road": 0.12, "tree": 0.3, "pavement": 0.5}
TILES, TILE_SIDES = 12, (64, 96)  # tiles of each size from an image
UNKNOWN = 11  # CamVid's label of what has no class
Labelled = tuple[str, str, str, Image.Image]  # part, class, name, image


def main() -> None:
    """Write the sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("bccd", "camvid", "cifar"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for name, read in (("bccd", cells), ("camvid", tiles), ("cifar", small_photographs)):
        given = getattr(options, name)
        if given is None:
            continue
        for part, label, file, image in read(given):
            place = options.out / name / part / label
            place.mkdir(parents=True, exist_ok=True)
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / file, quality=92)
    for folder in sorted(options.out.glob("*/*/*")):
        print(folder.relative_to(options.out), sum(1 for _ in folder.iterdir()))


def cells(root: Path) -> Iterator[Labelled]:
    """Squares around the cells, a tenth of the cell wider at each side."""
    draw = random.Random(0)
    files = sorted((root / "Annotations").glob("*.xml"))
    shuffled = files.copy()
    draw.shuffle(shuffled)
    test = {file.stem for file in shuffled[: len(files) // 4]}
    for file in files:
        image = Image.open(next((root / "JPEGImages").glob(f"{file.stem}.*"))).convert("RGB")
        for number, cell in enumerate(ElementTree.parse(file).getroot().iter("object")):
            label = cell.findtext("name") or ""
            if draw.random() >= KEPT_CELLS.get(label, 1.0):
                continue
            left, top, right, bottom = (int(cell.findtext(f"bndbox/{edge}") or 0) for edge in EDGES)
            half = 0.6 * max(right - left, bottom - top)
            x, y = (left + right) / 2, (top + bottom) / 2
            box = tuple(int(edge) for edge in (x - half, y - half, x + half, y + half))
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= image.width and box[3] <= image.height
            if half >= 5 and inside:
                part = "test" if file.stem in test else "train"
                yield part, label, f"{file.stem}_{number}.jpg", image.crop(box)


EDGES = ("xmin", "ymin", "xmax", "ymax")


def tiles(root: Path) -> Iterator[Labelled]:
    """Squares at random places, where one class has half of the middle."""
    draw = random.Random(0)
    for folder, part in (("train", "train"), ("val", "train"), ("test", "test")):
        for file in sorted((root / folder).glob("*.jpg")):
            image = Image.open(file).convert("RGB")
            labels = np.asarray(Image.open(root / f"{folder}annot" / f"{file.stem}.png"))
            for side in TILE_SIDES * TILES:
                x, y, edge = draw.randrange(image.width - side), draw.randrange(image.height - side), side // 4
                middle = labels[y + edge : y + side - edge, x + edge : x + side - edge]
                numbers, counts = np.unique(middle, return_counts=True)
                most = int(numbers[counts.argmax()])
                if most == UNKNOWN or counts.max() < 0.5 * middle.size:
                    continue
                label = CAMVID[most]
                if draw.random() < KEPT_TILES.get(label, 1.0):
                    yield part, label, f"{file.stem}_{x}_{y}_{side}.jpg", image.crop((x, y, x + side, y + side))


def small_photographs(file: Path) -> Iterator[Labelled]:
    """CIFAR-10 as JPEG files of one header in a .npz file."""
    stored = np.load(file)
    header = stored["header"].tobytes()
    for part, count in (("train", 500), ("test", 100)):
        content, offsets = stored[f"{part}_data"].tobytes(), stored[f"{part}_offsets"].astype(int)
        labels = stored[f"{part}_labels"]
        for number, label in enumerate(stored["classes"]):
            for index in np.flatnonzero(labels == number)[:count]:
                jpeg = header + content[offsets[index] : offsets[index + 1]]
                yield part, str(label), f"{index}.jpg", Image.open(io.BytesIO(jpeg)).convert("RGB")


if __name__ == "__main__":
    main()
