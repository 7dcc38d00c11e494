"""`moco embed` and `moco.embed`: from a run and images to their features."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from moco.data.skipped import damaged_were
from moco.errors import ConfigError, DataError
from moco.fields import check_number, check_path, check_processes
from moco.printable import printable

TYPE_CHECKING = False  # not typing's, whose imports the command line's parser would run, and so load PyTorch
if TYPE_CHECKING:
    import numpy as np
    import torch

    from moco.data.base import Source
    from moco.data.preprocess import Preprocessing
    from moco.data.user_data import Images
    from moco.export.embeddings import MemoryStore, Store
    from moco.export.load import Pretrained, Weights
    from moco.export.table import Table
else:
    Images = Weights = str  # the command line gives text
    Preprocessing = object

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]
LARGEST_BATCH = 65536
CPU_BATCH, ACCELERATOR_BATCH = 32, 256  # a CPU's caches like small batches


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Features of images and what they cost.

    Attributes:
        path: the file; None where they are in memory only.
        images: rows.
        feature_dim: their width, D.
        skipped: damaged images, which have no row; listed in PATH.skipped.jsonl.
        seconds: time of this call.
        images_per_second: of the images computed in this call.
        data_wait: share of that time in which the network waited for images, 0 to 1.
    """

    path: Path | None
    images: int
    feature_dim: int
    skipped: int
    seconds: float
    images_per_second: float
    data_wait: float
    _kept: Table | None = dataclasses.field(default=None, repr=False, compare=False)

    @functools.cached_property
    def table(self) -> Table:
        """Features, paths, and what they depend on; read from the file when it is first needed."""
        from moco.export.table import read_table

        return read_table(self.path) if self.path is not None else self._kept  # type: ignore[return-value]

    @property
    def features(self) -> np.ndarray:
        """(images, feature_dim) float32; mapped from the file, if there is one."""
        return self.table.features

    @property
    def paths(self) -> list[str]:
        """The image of each row: its path in the folder, or its place in the data set."""
        return self.table.paths

    def __str__(self) -> str:
        lines = [
            f"{printable(self.path or 'in memory')}: {self.images:,} images, {self.feature_dim} features each",
            f"{self.images_per_second:,.0f} images/s, {self.data_wait:.0%} of the time waiting for data, "
            f"{self.seconds:.1f} s in all",
        ]
        if self.skipped:
            lines.append(f"{damaged_were(self.skipped)} skipped: see {printable(self.path)}.skipped.jsonl")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("path", "_kept")]
        return {"path": str(self.path) if self.path else None, **{name: getattr(self, name) for name in names}}


def embed(
    run: Weights,
    data: Images,
    *,
    out: str | os.PathLike[str] | None = "embeddings.npz",
    batch_size: int | None = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    overwrite: bool = False,
    allow_factory: bool = False,
    quiet: bool = False,
    preprocessing: Preprocessing | None = None,
) -> Embedded:
    """Features of all images, with their paths: `.features` is an array (N, D), OUT a file that holds them.

    A call that was stopped goes on where it was when it is made again, and gives the same file. Until then its features
    lie in OUT.parts.

    Args:
        run: run folder, a backbone.safetensors file, or a run's checkpoints/last.pt; in Python also a `moco.Run`, what
            `moco.load` gave, or a module (N, 3, H, W) -> (N, D) with its `preprocessing`.
        data: folder of images (nested), .npy or .npz array, or the name of a torchvision data set; in Python whatever
            `moco.pretrain` takes.
        out: file to write: .npz, .parquet (needs pyarrow) or .pt; None (in Python) keeps the features in memory only.
        batch_size: images at a time; None means 32 on a CPU, 256 elsewhere.
        device: where the network runs; auto takes an accelerator if there is one.
        precision: fp32, or bf16 for mixed precision; features are float32 either way.
        workers: processes that decode images; None means the number of cores, at most 16.
        overwrite: whether OUT may be there already.
        allow_factory: whether a backbone that is a function (package.module:factory) may be called.
        quiet: no progress bar.
        preprocessing: how images go in, for a module; instead of the run's own for the others.

    Raises:
        ConfigError, DataError, ArchitectureError: bad input; nothing has been written.
        RunError: weights or output file cannot be used.
    """
    start = time.perf_counter()
    check_path("out", out)
    check_number("batch_size", batch_size, 1, LARGEST_BATCH)
    check_processes("workers", workers, least=1)
    from moco.export.embeddings import identity_of, is_being_finished, remove_emptied
    from moco.export.load import load
    from moco.export.table import WRITERS, check_output

    if out is not None:
        remove_emptied(Path(out).expanduser())
        overwrite = overwrite or is_being_finished(Path(out).expanduser())
        check_output(Path(out).expanduser(), WRITERS, overwrite=overwrite)
    model = load(run, preprocessing=preprocessing, allow_factory=allow_factory)
    source = open_images(data, model.preprocess, quiet=quiet)
    place = chosen_device(device)
    size = batch_size or (CPU_BATCH if place.type == "cpu" else ACCELERATOR_BATCH)
    identity = {**identity_of(model, source), "batch_size": size, "device": place.type, "precision": precision}
    options: dict[str, Any] = {"overwrite": overwrite, "workers": workers, "quiet": quiet, "start": start}
    if out is not None:
        return _write(Path(out).expanduser(), model.to(place), source, identity, **options)
    return _write(None, model.to(place), source, identity, **options)


def _write(
    path: Path | None,
    model: Pretrained,
    source: Source,
    identity: dict[str, Any],
    *,
    overwrite: bool,
    start: float,
    **options: Any,
) -> Embedded:
    """Compute what is lacking, write the file or keep it all in memory, and say what it cost since `start`."""
    from moco.export.embeddings import MemoryStore, Store

    width = model.feature_dim
    made = MemoryStore(width) if path is None else Store(path, identity, width, overwrite=overwrite)
    with contextlib.closing(made) as store:
        before, began = store.done, time.perf_counter()
        waited = _fill(store, model, source, identity, **options)
        computing = max(time.perf_counter() - began, 1e-9)
        rows = store.finish(source.item_name, {**identity, **model.metadata()})
    if (line := source.closing_line()) and not options["quiet"]:
        print(printable(line), file=sys.stderr)
    rate, seconds = (len(source) - before) / computing, time.perf_counter() - start
    return Embedded(path, rows, width, store.skipped.count, seconds, rate, waited / computing, store.table)


def _fill(
    store: Store | MemoryStore,
    model: Pretrained,
    source: Source,
    options: dict[str, Any],
    workers: int | None,
    *,
    quiet: bool,
) -> float:
    """Compute what the store lacks. Returns the seconds that the network waited for images."""
    import torch
    from tqdm import tqdm

    from moco.data.image_batches import image_batches
    from moco.export.embeddings import feature_batches

    cut, size, skipped = model.preprocess.cut, options["batch_size"], store.skipped
    batches = image_batches(source, cut, batch_size=size, skipped=skipped, first=store.done, workers=workers)
    waits: list[float] = []
    features = feature_batches(
        model.to(memory_format=torch.channels_last), _timed(batches, waits), precision=options["precision"]
    )
    bar = tqdm(total=len(source), initial=store.done, unit=" images", disable=quiet, leave=False)
    try:
        with bar, contextlib.closing(batches):
            store.append(features, bar.update)
    except KeyboardInterrupt:
        if not quiet and store.folder is not None:
            print(
                f"{store.done:,} images are safe in {printable(store.folder)}: the same command goes on",
                file=sys.stderr,
            )
        raise
    if skipped.count == len(source):
        store.remove()  # so that the next call looks at them again
        reason = "; the first: ".join(skipped.items()[0])
        raise DataError(f"none of {len(source)} images can be read, {reason}: check {source.name}")
    return sum(waits)


def _timed(batches: Iterator[Any], waits: list[float]) -> Iterator[Any]:
    """The batches, and in `waits` the seconds that each took to come."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        waits.append(time.perf_counter() - start)
        if batch is None:
            return
        yield batch


def open_images(data: Images, preprocess: Preprocessing, *, quiet: bool = True) -> Source:
    """The images that a user means, with channels and range of the run, and a line of each of their remarks; of a
    folder one is enough.

    Raises:
        DataError: nothing there, or images of other channels.
    """
    from moco.data.source import open_source

    ranged: Any = {"value_range": preprocess.value_range, "channels": preprocess.channels}
    source = open_source(data, least=1, **ranged)[0]
    for line in () if quiet else source.remarks:
        print(printable(line), file=sys.stderr)
    return source


def chosen_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: there is none.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there.get(name, False):
        raise ConfigError(f"device={name!r} is not there: choose {', '.join(k for k, ok in there.items() if ok)}")
    return torch.device(name)
