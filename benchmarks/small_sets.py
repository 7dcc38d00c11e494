"""Five labelled sets of at most 3,000 images to learn from, for `cheaper.py`: what people with few images have.

    python benchmarks/small_sets.py --cifar cifar10_jpeg.npz --imagenette imagenette_128 --bccd BCCD_voc \
        --camvid camvid --coco coco256_mini --out sets

cifar-3k: 300 training and 100 test images of each class of CIFAR-10, at 32 px.
imagenette-3k: 300 and 100 of each class, the files as they are.
bccd, camvid: the cells and tiles of `continued_sets.py` at 96 px; of tiles, 3,000 at most.
coco: objects cut out of photographs by their boxes, at most 96 px, by supercategory (test: COCO's `val`).
Each set has the parts train and test. Prints how many images each class has.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from continued_sets import SIDE, Labelled, cells, tiles

TRAIN, TEST = 300, 100  # of each class
MOST = 3000
LEAST_SIDE = 24  # pixels of an object


def main() -> None:
    """Write the sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in (*READERS, "imagenette"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for name, (folder, read) in READERS.items():
        given = getattr(options, name)
        if given is not None:
            write(read(given), options.out / folder)
    if options.imagenette is not None:
        copy_some(options.imagenette, options.out / "imagenette-3k")
    for folder in sorted(options.out.glob("*/*/*")):
        print(folder.relative_to(options.out), sum(1 for _ in folder.iterdir()))


def write(labelled: Iterator[Labelled], out: Path) -> None:
    """Class folders; images beyond the most to learn from are left out, evenly over the set."""
    images = list(labelled)
    train = sum(part == "train" for part, *_ in images)
    kept = set(np.linspace(0, train - 1, min(train, MOST)).round().astype(int))
    number = -1
    for part, label, file, image in images:
        number += part == "train"
        if part == "train" and number not in kept:
            continue
        place = out / part / label
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / file, quality=92)


def enlarged(read: Iterator[Labelled]) -> Iterator[Labelled]:
    """As `continued_sets.py` writes them."""
    for part, label, file, image in read:
        yield part, label, file, image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def small_photographs(file: Path) -> Iterator[Labelled]:
    """CIFAR-10 as JPEG files of one header in a .npz file; written without a further loss."""
    stored = np.load(file)
    header = stored["header"].tobytes()
    for part, count in (("train", TRAIN), ("test", TEST)):
        content, offsets = stored[f"{part}_data"].tobytes(), stored[f"{part}_offsets"].astype(int)
        for number, label in enumerate(stored["classes"]):
            for index in np.flatnonzero(stored[f"{part}_labels"] == number)[:count]:
                jpeg = header + content[offsets[index] : offsets[index + 1]]
                yield part, str(label), f"{index}.png", Image.open(io.BytesIO(jpeg)).convert("RGB")


def objects(root: Path) -> Iterator[Labelled]:
    """What lies in the boxes, by supercategory; persons no more often than the next most frequent ones together."""
    for part, stated in (("train", "train"), ("test", "val")):
        given = json.loads((root / "annotations" / f"instances_{stated}.json").read_text(encoding="utf-8"))
        names = {kind["id"]: kind["supercategory"] for kind in given["categories"]}
        files = {image["id"]: image["file_name"] for image in given["images"]}
        seen: Counter[str] = Counter()
        for found in given["annotations"]:
            left, top, width, height = found["bbox"]
            label = names[found["category_id"]]
            seen[label] += 1
            if found["iscrowd"] or min(width, height) < LEAST_SIDE or (label == "person" and seen[label] % 2):
                continue
            image = Image.open(root / "images" / stated / files[found["image_id"]]).convert("RGB")
            cut = image.crop((int(left), int(top), int(left + width), int(top + height)))
            cut.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
            yield part, label, f"{found['id']}.jpg", cut


def copy_some(root: Path, out: Path) -> None:
    """The first images of each class in the order of their names."""
    for part, stated, count in (("train", "train", TRAIN), ("test", "val", TEST)):
        for folder in sorted((root / stated).iterdir()):
            place = out / part / folder.name
            place.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copyfile(file, place / file.name)


READERS = {
    "cifar": ("cifar-3k", small_photographs),
    "bccd": ("bccd", lambda root: enlarged(cells(root))),
    "camvid": ("camvid", lambda root: enlarged(tiles(root))),
    "coco": ("coco", objects),
}


if __name__ == "__main__":
    main()
