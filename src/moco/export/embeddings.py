"""Features of a whole source, written while they are computed, so that a killed run goes on where it was.

N: images   D: feature width
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from moco.atomic import reason, replaced, write_json
from moco.data.base import Source
from moco.data.folder_lock import locked
from moco.data.image_batches import ImageBatch
from moco.data.skipped import SkippedFiles
from moco.errors import BrokenOffError, RunError
from moco.export.load import Pretrained
from moco.export.table import WRITERS, Table
from moco.printable import plain_data, plain_name

COMMIT_SECONDS = 20.0  # work that a kill may cost
_STATE = "state.json"
Features = tuple[int, np.ndarray, np.ndarray]  # index after the last image looked at, indices (n,), features (n, D)


def identity_of(model: Pretrained, source: Source) -> dict[str, Any]:
    """What features depend on: digests of the weights and of all image names in order, and the preprocessing."""
    names = hashlib.sha256()
    for index in range(len(source)):
        names.update(source.item_name(index).encode("utf-8", "surrogateescape") + b"\0")
    return {"weights": model.digest(), "images": names.hexdigest(), "preprocessing": model.preprocess.as_dict()}


def feature_batches(model: Pretrained, batches: Iterable[ImageBatch], *, precision: str) -> Iterator[Features]:
    """Features of each batch, float32, where the model is; `precision`: fp32, or bf16 for autocast.

    Raises:
        RunError: a feature is not finite.
    """
    device = next(model.parameters(), torch.empty(0)).device
    for batch in batches:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            features = torch.empty(0, model.feature_dim)
            if len(batch.indices):
                images = torch.from_numpy(batch.pixels).to(device).permute(0, 3, 1, 2)
                features = model(model.preprocess.normalize(images))
        values = features.to("cpu", torch.float32).numpy()
        if not np.isfinite(values).all():
            raise RunError("the features hold NaN or infinite values: the network has diverged; try precision fp32")
        yield batch.stop, batch.indices, values


def is_being_finished(out: Path) -> bool:
    """Whether a call was killed between its last two deeds: `out` is there, or about to be, and so are its parts."""
    try:
        state = json.loads((_parts(out) / _STATE).read_text(encoding="utf-8"))
        return isinstance(state, dict) and state.get("whole") is True
    except (OSError, ValueError, RecursionError):
        return False


def remove_emptied(out: Path) -> None:
    """Remove what is left of the parts of `out`, which is there, where a call was killed while it removed them."""
    parts = _parts(out)
    if out.exists() and parts.is_dir() and not (parts / _STATE).exists():
        with contextlib.suppress(RunError), contextlib.closing(locked(parts, "moco embed", attempts=1)):
            shutil.rmtree(parts, ignore_errors=True)  # else another process is at work in it


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


class Store:
    """Features on their way to `out`: a folder beside it, OUT.parts, which `finish` turns into the one file.

    What is committed survives a kill; what came after is cut off when the folder is opened again.

    Args:
        out: the file to come; .npz, .parquet or .pt.
        identity: what the features depend on, as plain data; another one is not continued.
        width: D.
        overwrite: whether `out` may be there already.

    Attributes:
        done: index after the last image whose features are safe.
        skipped: damaged files so far.
        table: None, as the features are in the file.

    Raises:
        RunError: the folder belongs to other features, cannot be used, or another process works in it.
    """

    table: Table | None = None

    def __init__(self, out: Path, identity: dict[str, Any], width: int, *, overwrite: bool = False) -> None:
        self.out, self._identity, self._width = out, identity, width
        self.folder = _parts(out)
        self._state, self._features, self._indices = (
            self.folder / name for name in (_STATE, "features.f32", "indices.i64")
        )
        self.done = self._rows = 0
        self._lock: IO[str] | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.folder, "moco embed: wait for it or choose another --out")
            self._open(overwrite)
        except (OSError, RunError) as error:
            self.close()
            if isinstance(error, RunError):
                raise
            raise RunError(f"cannot write beside {out}: {error.strerror or error}") from error
        self.skipped = SkippedFiles.read(self.folder / "skipped.jsonl")

    def _open(self, overwrite: bool) -> None:
        if self.out.exists() and not overwrite:  # another process has just made it
            self.remove()
            raise RunError(f"{self.out} is there already: choose another --out, or add --overwrite")
        if self._state.is_file():
            state = self._stored()
            other = [name for name, value in self._identity.items() if state["identity"].get(name) != value]
            if other:
                raise RunError(
                    f"{self.folder} holds features of other {', '.join(other)}: delete it, or choose another --out"
                )
            self.done, self._rows = state["done"], state["rows"]
        for file, size in self._files():
            with file.open("ab") as opened:
                opened.truncate(self._rows * size)

    def _stored(self) -> dict[str, Any]:
        """The last commit."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            sizes = (state["done"], state["rows"])
            if not isinstance(state["identity"], dict) or not all(type(size) is int and size >= 0 for size in sizes):
                raise ValueError("not a state of moco embed")
            if any(file.stat().st_size < size * state["rows"] for file, size in self._files()):
                raise ValueError("its features are cut short")
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RunError(f"{self._state} cannot be read ({reason(error)}): delete {self.folder}") from error
        return dict(state)

    def _files(self) -> tuple[tuple[Path, int], ...]:
        """The files that grow, and the bytes of a row in each."""
        return (self._features, 4 * self._width), (self._indices, 8)

    def append(self, features: Iterable[Features], tell: Callable[[int], object]) -> None:
        """Add rows as they come and commit now and then; `tell` hears of each batch's number of images.

        Raises:
            RunError: the disk took no more.
        """
        with self._safe(), self._features.open("ab") as values, self._indices.open("ab") as indices:
            done, rows, last = self.done, self._rows, time.monotonic()
            try:
                for stop, chosen, batch in features:
                    values.write(batch.astype("<f4", copy=False).tobytes())
                    indices.write(chosen.astype("<i8", copy=False).tobytes())
                    tell(stop - done)
                    done, rows = stop, rows + len(chosen)
                    if time.monotonic() - last > COMMIT_SECONDS:
                        self._commit(done, rows, values, indices)
                        last = time.monotonic()
            except KeyboardInterrupt:
                self._commit(done, rows, values, indices)
                raise
            self._commit(done, rows, values, indices)

    def _commit(self, done: int, rows: int, *files: Any) -> None:
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        self.skipped.write(self.folder / "skipped.jsonl")
        write_json(self._state, self._commitment(done, rows))
        self.done, self._rows = done, rows

    def _commitment(self, done: int, rows: int) -> dict[str, Any]:
        return {"identity": self._identity, "done": done, "rows": rows}

    def finish(self, item_name: Callable[[int], str], about: dict[str, Any]) -> int:
        """Write `out`, and OUT.skipped.jsonl if files were damaged; remove the folder. Returns the number of rows.

        Raises:
            RunError: the disk took no more.
        """
        with self._safe():
            indices = np.fromfile(self._indices, dtype="<i8")
            features = np.memmap(self._features, "<f4", "c", shape=(self._rows, self._width))
            try:
                names = [plain_name(item_name(int(index))) for index in indices]
            except IndexError as error:
                raise RunError(f"{self._indices} is damaged: delete {self.folder}") from error
            table = Table(features, names, plain_data(about))
            listed = self.out.with_name(self.out.name + ".skipped.jsonl")
            write_json(
                self._state, {**self._commitment(self.done, self._rows), "whole": True}
            )  # see `is_being_finished`
            with replaced(self.out) as partial:
                WRITERS[self.out.suffix.lower()](table, partial)
                listed.unlink(missing_ok=True)
                if self.skipped.count:
                    self.skipped.write(listed)
            self.remove()
        return self._rows

    @contextlib.contextmanager
    def _safe(self) -> Iterator[None]:
        """Says what is left where the file system refuses: features that the same command goes on with, or nothing."""
        try:
            yield
        except (OSError, RunError) as error:
            if isinstance(error, RunError) and not isinstance(error.__cause__, OSError | RuntimeError):
                raise
            if not self.done:
                self.remove()
                said = "nothing was kept"
            else:
                said = f"the features of {self.done:,} images are safe in {self.folder}: the same command goes on"
            cause = error.__cause__ if isinstance(error, RunError) else error
            kind = BrokenOffError if self.done else RunError
            raise kind(f"cannot write {self.out}: {reason(cause or error)}; {said}") from error

    def remove(self) -> None:
        """Throw the folder away."""
        self._state.unlink(missing_ok=True)  # first, so that nobody goes on with what is half removed
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let other processes at the folder."""
        if self._lock is not None:
            self._lock.close()


class MemoryStore:
    """As `Store`, in memory alone: nothing goes on from it."""

    folder, done = None, 0
    table: Table | None = None

    def __init__(self, width: int) -> None:
        self.skipped, self._width = SkippedFiles(), width
        self._features, self._indices = list[np.ndarray](), list[np.ndarray]()

    def append(self, features: Iterable[Features], tell: Callable[[int], object]) -> None:
        """Keep rows as they come; `tell` hears of each batch's number of images."""
        done = 0
        for stop, chosen, batch in features:
            self._features.append(batch)
            self._indices.append(chosen)
            tell(stop - done)
            done = stop

    def finish(self, item_name: Callable[[int], str], about: dict[str, Any]) -> int:
        """Make `table`. Returns the number of rows."""
        features = np.concatenate([np.empty((0, self._width), np.float32), *self._features])
        names = [plain_name(item_name(int(index))) for indices in self._indices for index in indices]
        self.table = Table(features, names, plain_data(about))
        self._features.clear()
        return len(names)

    def remove(self) -> None:
        """Nothing is there."""

    close = remove
