"""The tracks: data, network and lengths; and the data as entries and the judge take them."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Item = tuple[bytes | np.ndarray, int]  # a file's content or pixels (H, W, 3), and the label
PARTS = (("train", "training"), ("test", "val", "validation"))
VALIDATION = 10  # with --validation, one in so many training images is asked instead of the test part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """A competition of its own.

    Attributes:
        title: for the plot.
        image_size: side of the images that are judged.
        backbone: the network, the same for all entries.
        train, test: how many images of each part, drawn at random once for all; None for all.
        epochs: the lengths of the runs.
        accelerator: "cpu" or "cuda".
    """

    title: str
    image_size: int
    backbone: str
    train: int | None
    test: int | None
    epochs: tuple[int, ...]
    accelerator: str = "cpu"


TRACKS = {
    "cifar-cpu": Track(
        title="CIFAR-10, 10,000 images, resnet_small, CPU",
        image_size=32,
        backbone="resnet_small",
        train=10_000,
        test=5_000,
        epochs=(3, 6, 12, 24),
    ),
    "imagenette-cpu": Track(
        title="Imagenette, 64 px, resnet_small, CPU",
        image_size=64,
        backbone="resnet_small",
        train=None,
        test=None,
        epochs=(2, 4, 8, 16),
    ),
    "cifar-gpu": Track(
        title="CIFAR-10, ResNet-18 (3x3 stem), GPU",
        image_size=32,
        backbone="resnet18",
        train=None,
        test=None,
        epochs=(5, 10, 20, 50),
        accelerator="cuda",
    ),
    "imagenette-gpu": Track(
        title="Imagenette, 128 px, ResNet-18, GPU",
        image_size=128,
        backbone="resnet18",
        train=None,
        test=None,
        epochs=(10, 20, 50, 100),
        accelerator="cuda",
    ),
}


def prepare(track: Track, data: Path, folder: Path, *, validation: bool = False) -> Path:
    """FOLDER/images with the training images, and FOLDER/judge.npz; what is there already stays. Returns FOLDER.

    Args:
        track: says how many images, and of which size for the judge.
        data: "CIFAR10", which torchvision downloads; an .npz file of arrays (x_train, y_train, x_test, y_test) or of
            JPEG files (header, train_data, train_offsets, train_labels, and the same of test); or a folder with parts
            train and val of class folders.
        folder: where to.
        validation: ask one in ten of the training images, which are then not trained on, and leave the test alone.
    """
    if (folder / "judge.npz").is_file():
        return folder
    if not data.exists() and str(data) != "CIFAR10":
        raise SystemExit(
            f"{data}: no such file or folder; expected an .npz file, a folder with train and val, or CIFAR10"
        )
    shutil.rmtree(folder, ignore_errors=True)
    images = folder / "images"
    images.mkdir(parents=True)
    train = _drawn(_items(data, 0), track.train)
    if validation:
        asked, train = train[::VALIDATION], [item for n, item in enumerate(train) if n % VALIDATION]
    else:
        asked = _drawn(_items(data, 1), track.test)
    for number, (content, _) in enumerate(train):
        _write(content, images / f"{number:06d}")
    pixels = {"train": _squares(train, track.image_size), "test": _squares(asked, track.image_size)}
    labels = {"train_labels": [label for _, label in train], "test_labels": [label for _, label in asked]}
    np.savez(folder / "judge.part.npz", **pixels, **labels)
    os.replace(folder / "judge.part.npz", folder / "judge.npz")
    return folder


def _drawn(items: list[Item], count: int | None) -> list[Item]:
    """So many of them, in random order: the same for everyone."""
    order = np.random.default_rng(0).permutation(len(items))[:count]
    return [items[n] for n in order]


def _items(data: Path, part: int) -> list[Item]:
    if str(data) == "CIFAR10" and not data.exists():
        from torchvision.datasets import CIFAR10

        found = CIFAR10(str(Path.home() / ".cache" / "moco"), train=part == 0, download=True)
        return list(zip(found.data, found.targets, strict=True))
    if data.is_dir():
        return list(_of_folder(data, PARTS[part]))
    with np.load(data) as arrays:
        name = PARTS[part][0]
        if "header" in arrays:
            content, at = arrays[f"{name}_data"].tobytes(), arrays[f"{name}_offsets"].astype(int)
            head = arrays["header"].tobytes()
            files = [head + content[start:end] for start, end in itertools.pairwise(at)]
            return list(zip(files, map(int, arrays[f"{name}_labels"]), strict=True))
        return list(zip(arrays[f"x_{name}"], map(int, arrays[f"y_{name}"]), strict=True))


def _of_folder(data: Path, names: tuple[str, ...]) -> Iterator[Item]:
    part = next((data / name for name in names if (data / name).is_dir()), None)
    if part is None:
        raise SystemExit(f"{data}: expected a folder {' or '.join(names)} in it, with class folders")
    for label, place in enumerate(sorted(path for path in part.iterdir() if path.is_dir())):
        for file in sorted(place.iterdir()):
            yield file.read_bytes(), label


def _write(content: bytes | np.ndarray, path: Path) -> None:
    """A JPEG or PNG file as it is; pixels without loss."""
    if isinstance(content, bytes):
        path.with_suffix(".png" if content.startswith(b"\x89PNG") else ".jpg").write_bytes(content)
    else:
        Image.fromarray(content).save(path.with_suffix(".png"))


def _squares(items: list[Item], size: int) -> np.ndarray:
    """(N, size, size, 3) uint8: the shorter side scaled to `size`, then the centre."""
    return np.stack([_centre(_opened(content), size) for content, _ in items])


def _opened(content: bytes | np.ndarray) -> Image.Image:
    image = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else Image.fromarray(content)
    return image.convert("RGB")


def _centre(image: Image.Image, size: int) -> np.ndarray:
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
