"""Test images that are among the train images too, byte for byte: such an image asks for what was shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from moco.data.base import Source
from moco.data.folder import FolderSource
from moco.data.image_batches import image_batches
from moco.data.skipped import SkippedFiles

Digest = bytes
_BYTES = 16


def shared_images(train: Source, test: Source) -> list[tuple[str, str]]:
    """Names of test and train image for each test image whose file (in folders) or pixels occur among the train ones.

    Two folders are compared by the bytes of their files, of which only those of equal length are read. Anything else is
    compared by decoded pixels. The first train image with the same content is named.
    """
    if isinstance(train, FolderSource) and isinstance(test, FolderSource):
        pairs = _same_files(_files(train), _files(test))
    else:
        pairs = _matches(_pixels(train), _pixels(test))
    return [(test.item_name(at), train.item_name(of)) for at, of in pairs]


def _files(source: FolderSource) -> list[Path]:
    return [source.path(index) for index in range(len(source))]


def _same_files(train: list[Path], test: list[Path]) -> list[tuple[int, int]]:
    lengths = {path.stat().st_size for path in test} & {path.stat().st_size for path in train}

    def digests(paths: list[Path]) -> Iterator[tuple[int, Digest]]:
        for position, path in enumerate(paths):
            if path.stat().st_size in lengths:
                yield position, hashlib.blake2b(path.read_bytes(), digest_size=_BYTES).digest()

    return _matches(digests(train), digests(test))


def _pixels(source: Source) -> Iterator[tuple[int, Digest]]:
    for batch in image_batches(source, _digest, batch_size=256, skipped=SkippedFiles()):
        for index, digest in zip(batch.indices.tolist(), batch.pixels, strict=True):
            yield index, digest.tobytes()


def _digest(pixels: np.ndarray) -> np.ndarray:
    shape = str(pixels.shape).encode()
    return np.frombuffer(hashlib.blake2b(shape + pixels.tobytes(), digest_size=_BYTES).digest(), dtype=np.uint8)


def _matches(train: Iterable[tuple[int, Digest]], test: Iterable[tuple[int, Digest]]) -> list[tuple[int, int]]:
    first: dict[Digest, int] = {}
    for position, digest in train:
        first.setdefault(digest, position)
    return [(position, first[digest]) for position, digest in test if digest in first]
