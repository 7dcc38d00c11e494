"""A table of features with paths: as .npz, .parquet or .pt, written and read in blocks, so that memory stays flat.

N: images   D: feature width
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moco.errors import ConfigError, DataError

BLOCK = 8192  # rows in memory at a time; also the row group of a .parquet file
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of a zip file's members: equal content gives equal bytes

Block = tuple[list[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Table:
    """What is to be written.

    Attributes:
        features: file of N * D float32 values, row by row, little-endian.
        rows, width: N and D.
        name: the path of row i.
        about: plain data that travels with it.
    """

    features: Path
    rows: int
    width: int
    name: Callable[[int], str]
    about: dict[str, Any]

    def names(self) -> Iterator[list[str]]:
        """All paths, in blocks."""
        for start in range(0, self.rows, BLOCK):
            yield [plain_name(self.name(row)) for row in range(start, min(start + BLOCK, self.rows))]


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless the name of the file says one of the three formats, and what it needs is installed."""
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path}: need a name that ends in {', '.join(WRITERS)}")
    if path.suffix == ".parquet":
        _parquet()


def write_table(table: Table, path: Path, *, suffix: str) -> None:
    """Write the table to `path` in the format that `suffix` names.

    .npz: arrays `features` (N, D) float32, `paths` (N,) str, `about` (JSON text); `numpy.load` reads it without
    pickle. .parquet: columns `path` and `features`, `about` in the schema's metadata. .pt: a dict of `features`,
    `paths` (list) and `about`; `torch.load(weights_only=True)` reads it.
    """
    WRITERS[suffix](table, path)


def read_table(path: Path) -> tuple[dict[str, Any], Iterator[Block]]:
    """What travels with the table, and its rows in blocks of (paths, features (n, D)).

    Raises:
        DataError: missing, cut short, or not written by `write_table`.
    """
    if path.suffix not in READERS:
        raise DataError(f"{path}: need a file of `moco embed`, which ends in {', '.join(READERS)}")
    try:
        return READERS[path.suffix](path)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is not a file of `moco embed` ({reason}): make it again") from error


def _write_npz(table: Table, path: Path) -> None:
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        with _member(archive, "features", "<f4", (table.rows, table.width)) as file, table.features.open("rb") as rows:
            shutil.copyfileobj(rows, file, 2**20)
        longest = max(len(name) for names in table.names() for name in names)
        with _member(archive, "paths", f"<U{longest}", (table.rows,), zipfile.ZIP_DEFLATED) as file:
            for names in table.names():
                file.write(np.array(names, dtype=f"<U{longest}").tobytes())
        about = np.array(json.dumps(table.about))
        with _member(archive, "about", about.dtype.str, ()) as file:
            file.write(about.tobytes())


def _member(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], compression: int = zipfile.ZIP_STORED
) -> Any:
    """An open array file inside the archive, its header written."""
    info = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
    info.compress_type = compression
    file = archive.open(info, "w", force_zip64=True)
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file


def _read_npz(path: Path) -> tuple[dict[str, Any], Iterator[Block]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        about = json.loads(str(archive["about"][()]))

    def blocks() -> Iterator[Block]:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open("features.npy") as features,
            archive.open("paths.npy") as paths,
        ):
            (rows, width), _ = _header(features)
            _, dtype = _header(paths)
            for start in range(0, rows, BLOCK):
                count = min(BLOCK, rows - start)
                values = np.frombuffer(features.read(count * width * 4), dtype="<f4").reshape(count, width)
                names = np.frombuffer(paths.read(count * dtype.itemsize), dtype=dtype)
                yield names.tolist(), values

    return about, blocks()


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _write_parquet(table: Table, path: Path) -> None:
    arrow, parquet = _parquet()
    fields = [arrow.field("path", arrow.string()), arrow.field("features", arrow.list_(arrow.float32(), table.width))]
    schema = arrow.schema(fields, metadata={"moco": json.dumps(table.about)})
    with parquet.ParquetWriter(path, schema) as writer, table.features.open("rb") as rows:
        for names in table.names():
            values = np.frombuffer(rows.read(len(names) * table.width * 4), dtype="<f4")
            features = arrow.FixedSizeListArray.from_arrays(arrow.array(values), table.width)
            writer.write_table(arrow.table([arrow.array(names, arrow.string()), features], schema=schema), BLOCK)


def _read_parquet(path: Path) -> tuple[dict[str, Any], Iterator[Block]]:
    _, parquet = _parquet()
    with parquet.ParquetFile(path) as file:
        about = json.loads(file.schema_arrow.metadata[b"moco"])

    def blocks() -> Iterator[Block]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BLOCK):
                values = batch.column("features").flatten().to_numpy()
                yield batch.column("path").to_pylist(), values.reshape(batch.num_rows, -1)

    return about, blocks()


def _parquet() -> tuple[Any, Any]:
    """pyarrow and its module of Parquet files.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(".parquet needs pyarrow: pip install pyarrow, or choose .npz or .pt") from error
    return pyarrow, pyarrow.parquet


def _write_pt(table: Table, path: Path) -> None:
    import torch

    # The features are mapped, not read: torch writes them from the pages of the file.
    features = torch.from_file(str(table.features), shared=False, size=table.rows * table.width, dtype=torch.float32)
    content = {
        "features": features.view(table.rows, table.width),
        "paths": [name for names in table.names() for name in names],
        "about": table.about,
    }
    with path.open("wb") as file:
        torch.save(content, file)


def _read_pt(path: Path) -> tuple[dict[str, Any], Iterator[Block]]:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    features, paths = content["features"], content["paths"]

    def blocks() -> Iterator[Block]:
        for start in range(0, len(paths), BLOCK):
            yield paths[start : start + BLOCK], features[start : start + BLOCK].numpy()

    return content["about"], blocks()


def plain_name(name: str) -> str:
    """A path as valid Unicode: bytes that are none are written out as \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


WRITERS: dict[str, Callable[[Table, Path], None]] = {".npz": _write_npz, ".parquet": _write_parquet, ".pt": _write_pt}
READERS: dict[str, Callable[[Path], tuple[dict[str, Any], Iterator[Block]]]] = {
    ".npz": _read_npz,
    ".parquet": _read_parquet,
    ".pt": _read_pt,
}
