"""A table of features with paths, as .npz, .parquet or .pt.

.npz: arrays `features` (N, D) float32, `paths` (N,) str, `about` (JSON text); `numpy.load` reads it without pickle.
.parquet: columns `path` and `features`, `about` in the schema's metadata. .pt: a dict of `features`, `paths` (list) and
`about`; `torch.load(weights_only=True)` reads it.

N: images   D: feature width
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moco.errors import ConfigError, DataError, RunError

BLOCK = 8192  # rows in memory at a time; also the row group of a .parquet file


@dataclasses.dataclass(frozen=True)
class Table:
    """Features with the paths of their images.

    Attributes:
        features: (N, D) float32; mapped from the file where it allows that, so that pages are read when they are used.
        paths: of each row; valid Unicode, see `moco.printable.plain_name`.
        about: plain data that travels with them.
    """

    features: np.ndarray
    paths: list[str]
    about: dict[str, Any]

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Paths and features, some thousand rows at a time."""
        for start in range(0, len(self.paths), BLOCK):
            yield self.paths[start : start + BLOCK], self.features[start : start + BLOCK]


def check_output(path: Path, suffixes: Iterable[str], *, overwrite: bool) -> None:
    """Raise ConfigError or RunError unless a file of one of these suffixes can be written there."""
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{path}: need a name that ends in {', '.join(suffixes)}")
    if path.suffix.lower() == ".parquet":
        _parquet()
    check_free(path, overwrite=overwrite)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise RunError where something is there already that may not be replaced, or no folder to write into."""
    if path.exists() and not overwrite:
        raise RunError(f"{path} is there already: choose another --out, or add --overwrite")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent} is no folder: make it, or choose another --out")


def read_table(path: Path) -> Table:
    """Read what one of `WRITERS` has written.

    Raises:
        DataError: missing, cut short, or another file.
    """
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: need a file of `moco embed`, which ends in {', '.join(READERS)}")
    try:
        return READERS[path.suffix.lower()](path)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is not a file of `moco embed` ({reason}): make it again") from error


def _write_npz(table: Table, path: Path) -> None:
    with path.open("wb") as file:  # given a path, NumPy would add a suffix
        np.savez(file, features=table.features, paths=np.array(table.paths), about=np.array(json.dumps(table.about)))


def _read_npz(path: Path) -> Table:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        about, paths = json.loads(str(archive["about"][()])), archive["paths"].tolist()
        # `features` is stored, not compressed: found in the file, it can be mapped.
        file.seek(archive.zip.getinfo("features.npy").header_offset + 26)
        file.seek(sum(int.from_bytes(file.read(2), "little") for _ in range(2)), 1)  # a name and an extra field
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return Table(np.memmap(file, dtype, "r", file.tell(), shape), paths, about)


def _write_parquet(table: Table, path: Path) -> None:
    arrow, parquet = _parquet()
    width = table.features.shape[1]
    fields = [arrow.field("path", arrow.string()), arrow.field("features", arrow.list_(arrow.float32(), width))]
    schema = arrow.schema(fields, metadata={"moco": json.dumps(table.about)})
    with path.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for names, values in table.blocks():
            features = arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), width)
            writer.write_table(arrow.table([arrow.array(names, arrow.string()), features], schema=schema), BLOCK)


def _read_parquet(path: Path) -> Table:
    _, parquet = _parquet()
    with path.open("rb") as file:  # by its name it could not be found where that is not UTF-8
        read = parquet.read_table(file)
    features = read.column("features").combine_chunks().flatten().to_numpy()
    about = json.loads(read.schema.metadata[b"moco"])
    return Table(features.reshape(read.num_rows, -1), read.column("path").to_pylist(), about)


def _parquet() -> tuple[Any, Any]:
    """pyarrow and its module of Parquet files; ConfigError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(".parquet needs pyarrow: pip install pyarrow, or choose .npz or .pt") from error
    return pyarrow, pyarrow.parquet


def _write_pt(table: Table, path: Path) -> None:
    import torch

    with path.open("wb") as file:
        features = torch.from_numpy(table.features)  # mapped: written from the pages of its file
        torch.save({"features": features, "paths": table.paths, "about": table.about}, file)


def _read_pt(path: Path) -> Table:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return Table(content["features"].numpy(), content["paths"], content["about"])


WRITERS: dict[str, Callable[[Table, Path], None]] = {".npz": _write_npz, ".parquet": _write_parquet, ".pt": _write_pt}
READERS: dict[str, Callable[[Path], Table]] = {".npz": _read_npz, ".parquet": _read_parquet, ".pt": _read_pt}
