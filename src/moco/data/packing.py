"""Making a pack: read every image of a folder once, in threads, and write it where an interruption can do no harm.

Records, names and rows are only ever appended, data before the rows that speak of it, so that whatever was lost is a
tail: going on cuts it off and continues behind the last row.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from PIL import Image
from tqdm import tqdm

from moco.data.decode import DamagedImage, as_image, decode_pixels, jpeg_content
from moco.data.folder import FolderSource
from moco.data.folder_lock import LOCK, locked
from moco.data.pack_format import DAMAGED, DATA, INDEX, NAMES, PARTIAL, ROW, Meta, PackOptions, is_pack
from moco.data.packed import PackedSource
from moco.data.preprocess import by_pillow
from moco.data.workers import default_workers
from moco.errors import DataError, RunError
from moco.printable import plain_name

CHECKPOINT = 1000  # images between two moments at which all that was written is safe on the disk
_AHEAD = 32  # images for each worker that are read before the next ones are handed out


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One image as it is stored."""

    content: bytes | None  # the record; None if the image cannot be read
    height: int = 0  # of the decoded image
    width: int = 0
    damage: str = ""  # why it cannot be read


def encode(source: FolderSource, index: int, options: PackOptions) -> Encoded:
    """Read one image, make it small, store it; a JPEG that is small already keeps its own bytes."""
    channels, side = source.channels, options.short_side
    try:
        content = jpeg_content(source.path(index))
        if content is not None and options.format == "jpeg" and _is_small(content, side):
            pixels = decode_pixels(content, item=source.item_name(index), channels=channels)  # whole, or it would fail
            return Encoded(content, *pixels.shape[:2])
        pixels = source.pixels(index, min_side=side or None)
    except DamagedImage as error:
        return Encoded(None, damage=error.reason)
    height, width, _ = pixels.shape
    if side and min(height, width) > side:
        scale = side / min(height, width)
        size = max(side, round(width * scale)), max(side, round(height * scale))
        pixels = by_pillow(pixels, lambda image: image.resize(size, Image.Resampling.BICUBIC))
        width, height = size
    if options.format == "raw":
        return Encoded(pixels.tobytes(), height, width)
    buffer = io.BytesIO()
    as_image(pixels).save(buffer, format="JPEG", quality=options.quality)
    return Encoded(buffer.getvalue(), height, width)


def _is_small(content: bytes, side: int) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "MPO")) as image:
            return side == 0 or min(image.size) <= side
    except Exception:  # decoding says what is wrong
        return False


class PackWriter:
    """A pack under construction, in NAME.partial; closed by leaving its `with` block, whole only after `finish`.

    Args:
        target: the folder that the pack will be.
        meta: its options, classes, source and fingerprint.
        restart: throw away what an interrupted run left.

    Attributes:
        position: place in the source's listing at which to go on.
        images, damaged: written so far.

    Raises:
        DataError: what is there was begun from other images or with other options.
        RunError: another process works on it.
    """

    def __init__(self, target: Path, meta: Meta, *, restart: bool = False) -> None:
        self.target, self.meta = target, meta
        self.folder = target.with_name(target.name + PARTIAL)
        if is_pack(self.folder) and not restart:
            meta.check_same(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder, "process that is making this pack: wait for it")
        if restart or not is_pack(self.folder):
            for name in (DATA, INDEX, NAMES, DAMAGED):
                (self.folder / name).unlink(missing_ok=True)
        try:
            meta.write(self.folder)
        except RunError:
            self._lock.close()
            if not is_pack(self.folder):  # nothing was begun
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._rows: list[tuple[int, ...]] = []
        self._notes: list[str] = []
        last = self._cut_tails()
        self.position, self._end, self._name_end = int(last["position"]) + 1, int(last["end"]), int(last["name_end"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.checkpoint()
        finally:
            for file in self._files.values():
                file.close()
            self._lock.close()

    def add(self, image: Encoded, *, name: str, label: int) -> None:
        """Append the image at `position` and go on to the next; a damaged one is listed."""
        if image.content is None:
            self._notes.append(
                json.dumps({"path": plain_name(name), "reason": image.damage, "position": self.position}) + "\n"
            )
            self.damaged += 1
        else:
            self._end += self._files[DATA].write(image.content)
            self._name_end += self._files[NAMES].write(os.fsencode(name))
            checksum = zlib.crc32(image.content)
            row = (self._end, self._name_end, self.position, image.height, image.width, label, checksum)
            self._rows.append(row)
            self.images += 1
        self.position += 1
        if len(self._rows) >= CHECKPOINT:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make all that was added safe: the rows are written once what they speak of is on the disk."""
        for name in (DATA, NAMES):
            _to_disk(self._files[name])
        self._files[DAMAGED].write("".join(self._notes).encode("ascii"))
        _to_disk(self._files[DAMAGED])  # before the rows: one goes on behind the last row
        self._files[INDEX].write(np.array(self._rows, dtype=ROW).tobytes())
        _to_disk(self._files[INDEX])
        self._rows, self._notes = [], []

    def finish(self, *, show_progress: bool = False) -> PackedSource:
        """Read everything once more, compare the checksums, and give the pack its name.

        Raises:
            DataError: no image could be read, or the disk gives back something else than was written.
        """
        self.checkpoint()
        if not self.images:
            raise DataError(
                f"{self.meta.source}: none of {self.damaged} images can be read: see {self.folder / DAMAGED}"
            )
        index = np.fromfile(self.folder / INDEX, dtype=ROW)
        names = np.fromfile(self.folder / NAMES, dtype=np.uint8)
        one = bool((index["height"] == index["height"][0]).all() and (index["width"] == index["width"][0]).all())
        dataclasses.replace(
            self.meta,
            images=self.images,
            damaged=self.damaged,
            data_bytes=self._end,
            name_bytes=self._name_end,
            tables_crc32=zlib.crc32(names.data, zlib.crc32(index.data)),
            shape=(int(index["height"][0]), int(index["width"][0])) if one else None,
            complete=True,
        ).write(self.folder)
        wrong = PackedSource(self.folder, check_source=False).damaged_records(show_progress=show_progress)
        if wrong:
            self.meta.write(self.folder)  # not whole after all
            raise DataError(f"{self.folder}: the disk does not hold what was written ({wrong[0]}): check it")
        old = self.target.with_name(f".{self.target.name}.replaced")
        shutil.rmtree(old, ignore_errors=True)  # of a call that was killed here
        if self.target.exists():  # a pack that this one replaces goes away last
            os.replace(self.target, old)
        os.replace(self.folder, self.target)
        shutil.rmtree(old, ignore_errors=True)
        (self.target / LOCK).unlink(missing_ok=True)
        return PackedSource(self.target, check_source=False)

    def _cut_tails(self) -> Any:
        """Open the files behind the last row that is whole, and give that row."""
        self._files: dict[str, IO[bytes]] = {}
        for name in (INDEX, DATA, NAMES, DAMAGED):
            (self.folder / name).touch()
            self._files[name] = (self.folder / name).open("r+b")
        index = np.fromfile(self.folder / INDEX, dtype=ROW)
        sizes = [os.fstat(self._files[name].fileno()).st_size for name in (DATA, NAMES)]
        fields = zip(("end", "name_end"), sizes, strict=True)
        self.images = int(min(np.searchsorted(index[field], size, "right") for field, size in fields))
        last = np.zeros(1, dtype=ROW)
        last["position"] = -1
        last = index[self.images - 1 : self.images] if self.images else last
        notes = [line for line in self._files[DAMAGED] if line.endswith(b"\n")]
        try:
            notes = [line for line in notes if json.loads(line)["position"] < last["position"][0]]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(f"{self.folder / DAMAGED} is not what moco pack writes: add --replace") from error
        self.damaged = len(notes)
        kept = {INDEX: self.images * ROW.itemsize, DATA: int(last["end"][0]), NAMES: int(last["name_end"][0])}
        for name, size in {**kept, DAMAGED: sum(map(len, notes))}.items():
            self._files[name].truncate(size)
            self._files[name].seek(size)
        return last[0]


def pack_folder(
    source: FolderSource, writer: PackWriter, *, workers: int | None = None, show_progress: bool = False
) -> None:
    """Add all images of the source that are not in the pack yet, in the source's order."""
    workers = workers or default_workers()
    count, start = len(source), writer.position
    bar = tqdm(total=count, initial=start, unit="images", desc="packing", leave=False, disable=not show_progress)
    with bar, ThreadPoolExecutor(workers, thread_name_prefix="moco-pack") as pool:
        for first in range(start, count, _AHEAD * workers):  # block by block, so that few images wait in memory
            block = range(first, min(first + _AHEAD * workers, count))
            images = [pool.submit(encode, source, index, writer.meta.options) for index in block]
            try:
                for index, image in zip(block, images, strict=True):
                    label = -1 if source.labels is None else int(source.labels[index])
                    writer.add(image.result(), name=source.item_name(index), label=label)
                    bar.update()
            except BaseException:  # Ctrl-C among them
                pool.shutdown(cancel_futures=True)
                raise


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
