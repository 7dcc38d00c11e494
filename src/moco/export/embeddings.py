"""Features of a whole source, written while they are computed, so that a killed run goes on where it was.

N: images   D: feature width
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.data.skipped import SkippedFiles
from moco.data.stream import FixedBatch
from moco.errors import RunError
from moco.export.load import Pretrained
from moco.export.table import Table, write_table
from moco.lock import locked

COMMIT_SECONDS = 20.0  # work that a kill may cost
Features = tuple[int, np.ndarray, np.ndarray]  # index after the last image looked at, indices (n,), features (n, D)


def feature_batches(
    model: Pretrained, batches: Iterable[FixedBatch], *, device: torch.device, precision: str
) -> Iterator[Features]:
    """Features of each batch, float32; on an accelerator the next batch is computed while one is fetched.

    `precision`: fp32, or bf16 for autocast. Raises RunError where a feature is not finite.
    """
    pending: tuple[FixedBatch, Tensor] | None = None
    for batch in batches:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            pixels = torch.from_numpy(batch.pixels)
            if device.type == "cuda":
                pixels = pixels.pin_memory()
            images = model.preprocess.normalize(pixels.to(device, non_blocking=True).permute(0, 3, 1, 2))
            features = model(images) if len(images) else images.new_empty(0, model.feature_dim)
        if pending is not None:
            yield _fetched(*pending)
        pending = batch, features
    if pending is not None:
        yield _fetched(*pending)


def _fetched(batch: FixedBatch, features: Tensor) -> Features:
    values = features.to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise RunError("the features hold NaN or infinite values: the network has diverged; try precision fp32")
    return batch.stop, batch.indices, values


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

    Raises:
        RunError: the folder belongs to other features, cannot be used, or another process works in it.
    """

    def __init__(self, out: Path, identity: dict[str, Any], width: int, *, overwrite: bool = False) -> None:
        self.out, self._identity, self._width = out, identity, width
        self.folder = out.with_name(out.name + ".parts")
        self._state, self._features, self._indices = (
            self.folder / name for name in ("state.json", "features.f32", "indices.i64")
        )
        self.done = self._rows = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.folder, "moco embed: wait for it or choose another --out")
        except OSError as error:
            raise RunError(f"cannot write beside {out}: {error.strerror or error}") from error
        try:
            self._open(overwrite)
        except OSError as error:
            self.close()
            raise RunError(f"cannot write beside {out}: {error.strerror or error}") from error
        except RunError:
            self.close()
            raise
        self.skipped = SkippedFiles.read(self.folder / "skipped.jsonl")

    def _open(self, overwrite: bool) -> None:
        if self.out.exists() and not overwrite:  # another process has just made it
            self.remove()
            raise RunError(f"{self.out} is there already: choose another --out, or add --overwrite")
        if self._state.is_file():
            state = json.loads(self._state.read_text(encoding="utf-8"))
            other = [name for name, value in self._identity.items() if state["identity"].get(name) != value]
            if other:
                raise RunError(
                    f"{self.folder} holds features of other {', '.join(other)}: delete it, or choose another --out"
                )
            self.done, self._rows = state["done"], state["rows"]
        for file, size in ((self._features, 4 * self._width), (self._indices, 8)):
            with file.open("ab") as opened:
                opened.truncate(self._rows * size)

    def append(self, features: Iterable[Features], tell: Callable[[int], object]) -> None:
        """Add rows as they come and commit now and then; `tell` hears of each batch's number of images."""
        with self._features.open("ab") as values, self._indices.open("ab") as indices:

            def commit() -> None:
                for file in (values, indices):
                    file.flush()
                    os.fsync(file.fileno())
                self._commit(*whole)

            whole, last = (self.done, self._rows), time.monotonic()  # images looked at, rows written
            try:
                for start, (stop, chosen, batch) in _with_start(features, self.done):
                    values.write(batch.astype("<f4", copy=False).tobytes())
                    indices.write(chosen.astype("<i8", copy=False).tobytes())
                    whole = stop, whole[1] + len(chosen)
                    tell(stop - start)
                    if time.monotonic() - last > COMMIT_SECONDS:
                        commit()
                        last = time.monotonic()
            except KeyboardInterrupt:
                commit()
                raise
            commit()

    def _commit(self, done: int, rows: int) -> None:
        self.skipped.write(self.folder / "skipped.jsonl")
        partial = self._state.with_name("state.json.partial")
        partial.write_text(json.dumps({"identity": self._identity, "done": done, "rows": rows}), encoding="utf-8")
        os.replace(partial, self._state)
        self.done, self._rows = done, rows

    def finish(self, item_name: Callable[[int], str], about: dict[str, Any]) -> int:
        """Write `out`, and OUT.skipped.jsonl if files were damaged; remove the folder. Returns the number of rows."""
        indices = np.memmap(self._indices, dtype="<i8", mode="r") if self._rows else np.empty(0, dtype=np.int64)
        table = Table(self._features, self._rows, self._width, lambda row: item_name(int(indices[row])), about)
        partial = self.folder / f"whole{self.out.suffix}"
        write_table(table, partial, suffix=self.out.suffix)
        listed = skipped_list(self.out)
        listed.unlink(missing_ok=True)
        if self.skipped.count:
            self.skipped.write(listed)
        os.replace(partial, self.out)
        self.remove()
        return self._rows

    def remove(self) -> None:
        """Throw the folder away."""
        self._state.unlink(missing_ok=True)  # first, so that nobody goes on with what is half removed
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let other processes at the folder."""
        self._lock.close()


def skipped_list(out: Path) -> Path:
    """Where the damaged files of an embedding are listed."""
    return out.with_name(out.name + ".skipped.jsonl")


def _with_start(features: Iterable[Features], start: int) -> Iterator[tuple[int, Features]]:
    for batch in features:
        yield start, batch
        start = batch[0]
