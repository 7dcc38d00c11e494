"""Real images for tests: read from ../shared/data, unpacked once into a scratch folder, skipped where absent."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SCRATCH = Path(tempfile.gettempdir()) / "moco-test-data"


def shared_file(name: str) -> Path:
    """A file of ../shared/data; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path


def imagenette(scratch: Path = SCRATCH) -> Path:
    """The unpacked `imagenette_128`: {train,val}/<class>/*.jpg, 9,469 and 3,925 images of 128 x 128."""
    archive = shared_file("imagenette_128.tar.gz")
    target = scratch / "imagenette_128"
    if not target.is_dir():
        partial = _scratch_folder(scratch)
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        _publish(partial / "imagenette_128", target)
        shutil.rmtree(partial, ignore_errors=True)
    return target


def cifar10(scratch: Path = SCRATCH) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images (50000, 32, 32, 3) uint8 and labels (50000,) int64, test images and labels (10000 of them).

    Images are memory-mapped. They are ordered class by class and were once compressed as JPEG.
    """
    archive = shared_file("cifar10_jpeg.npz")
    target = scratch / "cifar10"
    if not target.is_dir():
        partial = _scratch_folder(scratch)
        (partial / "arrays").mkdir()
        with np.load(archive) as packed:
            for part in ("train", "test"):
                np.save(partial / "arrays" / f"{part}.npy", _decode(packed, part))
                np.save(partial / "arrays" / f"{part}_labels.npy", packed[f"{part}_labels"].astype(np.int64))
        _publish(partial / "arrays", target)
        shutil.rmtree(partial, ignore_errors=True)
    train, test = (np.load(target / f"{part}.npy", mmap_mode="r") for part in ("train", "test"))
    return train, np.load(target / "train_labels.npy"), test, np.load(target / "test_labels.npy")


def _decode(packed: np.lib.npyio.NpzFile, part: str) -> np.ndarray:
    header, data = packed["header"].tobytes(), packed[f"{part}_data"].tobytes()
    offsets = packed[f"{part}_offsets"].astype(int)
    images = np.empty((len(offsets) - 1, 32, 32, 3), dtype=np.uint8)
    for index, (start, stop) in enumerate(itertools.pairwise(offsets)):
        images[index] = np.asarray(Image.open(io.BytesIO(header + data[start:stop])).convert("RGB"))
    return images


def _scratch_folder(scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=scratch, prefix=".partial-"))


def _publish(partial: Path, target: Path) -> None:
    """Rename in one step, so that a parallel test never sees half of it; the first one wins."""
    try:
        os.rename(partial, target)
    except OSError:
        if not target.is_dir():
            raise
