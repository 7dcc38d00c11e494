"""Which images a run has to do with: a record that a later part of the run compares with what it finds."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moco.data.base import UNKNOWN, Source
from moco.errors import DataError

_NAMED = 2  # images of each kind of difference that a message names


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """N images, by what tells them apart without decoding them.

    Attributes:
        names: UTF-8 (bytes that are none are kept), each image's name and a zero byte.
        contents: (N,) int64, see `Source.content_key`.
        classes: class names, as `names`; empty without labels.
        labels: (N,) int64, of these classes; empty without labels.
    """

    names: bytes
    contents: np.ndarray
    classes: bytes
    labels: np.ndarray

    @classmethod
    def take(cls, source: Source) -> ImageRecord:
        """Look at every image's name and size; seconds for a million files."""
        count = range(len(source))
        labels = np.empty(0, dtype=np.int64) if source.labels is None else source.labels
        return cls(
            names=joined(source.record_name(index) for index in count),
            contents=np.fromiter((source.content_key(index) for index in count), dtype=np.int64, count=len(source)),
            classes=b"" if source.labels is None else joined(source.class_names),
            labels=labels,
        )

    @property
    def digest(self) -> str:
        """BLAKE2b over all of it, in hexadecimal."""
        whole = hashlib.blake2b(digest_size=16)
        for part in (self.names, self.contents.tobytes(), self.classes, self.labels.tobytes()):
            whole.update(len(part).to_bytes(8, "little") + part)
        return whole.hexdigest()

    def positions(self, names: bytes) -> np.ndarray:
        """Sorted indices of the images of these names, as far as they are here."""
        wanted = set(_split(names))
        return np.array([index for index, name in enumerate(_split(self.names)) if name in wanted], dtype=np.int64)

    def differences(self, now: ImageRecord) -> list[str]:
        """What is another way in `now`, in words; nothing where both are the same."""
        if self.digest == now.digest:
            return []
        before, after = self._by_name(), now._by_name()
        both = before.keys() & after.keys()
        kinds = {
            "gone": [name for name in before if name not in both],
            "new": [name for name in after if name not in both],
            "of another size or content": [name for name in before if name in both and _content(before, after, name)],
            "of another class": [name for name in before if name in both and before[name][1] != after[name][1]],
        }
        found = [_in_words(names, kind) for kind, names in kinds.items() if names]
        return found or ["the same images in another order"]

    def _by_name(self) -> dict[bytes, tuple[int, bytes]]:
        """Content and class of each image."""
        classes = [*_split(self.classes), b""]  # the last is UNKNOWN's
        labels = self.labels if len(self.labels) else np.full(len(self.contents), UNKNOWN)
        rows = zip(_split(self.names), self.contents.tolist(), labels.tolist(), strict=True)
        return {name: (content, classes[label]) for name, content, label in rows}


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The images of a run.

    Attributes:
        learnt: those that it was given to learn from.
        test: those of a test set of its own; None without one.
        held_out: names of those of `learnt` that it must not learn from, as in `ImageRecord.names`; also of such that
            are there no longer.
    """

    learnt: ImageRecord
    test: ImageRecord | None
    held_out: bytes

    def to_bytes(self) -> bytes:
        """The content of a .npz file."""
        arrays = {"held_out": np.frombuffer(self.held_out, dtype=np.uint8)}
        for part, record in (("learnt", self.learnt), ("test", self.test)):
            for field in dataclasses.fields(ImageRecord) if record is not None else ():
                value = getattr(record, field.name)
                arrays[f"{part}_{field.name}"] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def read(cls, path: Path) -> RunRecord | None:
        """What `to_bytes` gave; None where there is no such file, as in runs of earlier versions.

        Raises:
            DataError: the file is damaged.
        """
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                learnt = _record(arrays, "learnt")
                test = _record(arrays, "test") if "test_names" in arrays.files else None
                return cls(learnt, test, arrays["held_out"].astype(np.uint8).tobytes())
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{path} is damaged ({' '.join(str(error).split())}): restore it, or delete it to resume without "
                "comparing the images"
            ) from error


def _record(arrays: np.lib.npyio.NpzFile, part: str) -> ImageRecord:
    names, classes = (arrays[f"{part}_{name}"].astype(np.uint8).tobytes() for name in ("names", "classes"))
    contents, labels = (arrays[f"{part}_{name}"].astype(np.int64) for name in ("contents", "labels"))
    if names.count(b"\0") != len(contents) or len(labels) not in (0, len(contents)):
        raise ValueError("its parts differ in length")
    if len(labels) and not UNKNOWN <= labels.min() <= labels.max() < classes.count(b"\0"):
        raise ValueError("its labels have no classes")
    return ImageRecord(names, contents, classes, labels)


def joined(names: Iterable[str]) -> bytes:
    """Names as `ImageRecord.names` has them."""
    text = bytearray()
    for name in names:
        text += name.encode("utf-8", "surrogateescape") + b"\0"
    return bytes(text)


def _split(names: bytes) -> list[bytes]:
    return names.split(b"\0")[:-1]


def _content(before: dict[bytes, tuple[int, bytes]], after: dict[bytes, tuple[int, bytes]], name: bytes) -> bool:
    return before[name][0] != after[name][0]


def _in_words(names: list[bytes], kind: str) -> str:
    """`80 gone (cats/004.jpg, cats/005.jpg, ...)`."""
    examples = ", ".join(name.decode("utf-8", "backslashreplace") for name in names[:_NAMED])
    return f"{len(names):,} {kind} ({examples}{', ...' if len(names) > _NAMED else ''})"
