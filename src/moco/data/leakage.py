"""Test images that are among the train images too, byte for byte: such an image asks for what was shown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from moco.data.folder import FolderSource
from moco.data.readable import ReadableImages

Digest = bytes


def shared_images(train: ReadableImages, test: ReadableImages) -> list[tuple[str, str]]:
    """Names of test and train image for each test image whose file (in folders) or pixels occur among the train ones.

    Two folders are compared by the bytes of their files, of which only those of equal length are read. Anything else is
    compared by decoded pixels. The first train image with the same content is named.
    """
    if isinstance(train.source, FolderSource) and isinstance(test.source, FolderSource):
        pairs = _same_files(_files(train), _files(test))
    else:
        pairs = _matches(_pixels(train), _pixels(test))
    return [
        (test.source.item_name(int(test.indices[at])), train.source.item_name(int(train.indices[of])))
        for at, of in pairs
    ]


def _files(images: ReadableImages) -> list[Path]:
    source = images.source
    assert isinstance(source, FolderSource)
    return [source.path(int(index)) for index in images.indices]


def _same_files(train: list[Path], test: list[Path]) -> list[tuple[int, int]]:
    lengths = {path.stat().st_size for path in test} & {path.stat().st_size for path in train}

    def digests(paths: list[Path]) -> Iterator[tuple[int, Digest]]:
        for position, path in enumerate(paths):
            if path.stat().st_size in lengths:
                yield position, hashlib.blake2b(path.read_bytes(), digest_size=16).digest()

    return _matches(lambda: digests(train), lambda: digests(test))


def _pixels(images: ReadableImages) -> Callable[[], Iterator[tuple[int, Digest]]]:
    def digests() -> Iterator[tuple[int, Digest]]:
        for position in range(len(images)):
            pixels = np.asarray(images.image(position))
            header = str(pixels.shape).encode()
            yield position, hashlib.blake2b(header + pixels.tobytes(), digest_size=16).digest()

    return digests


def _matches(
    train: Callable[[], Iterator[tuple[int, Digest]]], test: Callable[[], Iterator[tuple[int, Digest]]]
) -> list[tuple[int, int]]:
    first: dict[Digest, int] = {}
    for position, digest in train():
        first.setdefault(digest, position)
    return [(position, first[digest]) for position, digest in test() if digest in first]
