"""`moco embed` and `moco.embed`: from a run and a folder of images to a file of features."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moco.data.skipped import damaged_were
from moco.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    import torch

    from moco.data.source import Source
    from moco.export.embeddings import Store
    from moco.export.load import Pretrained

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]
CPU_BATCH, ACCELERATOR_BATCH = 32, 256  # a CPU's caches like small batches


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A file of features and what it cost.

    Attributes:
        path: the file.
        images: rows in it.
        feature_dim: their width.
        skipped: damaged images, which have no row; listed in PATH.skipped.jsonl.
        seconds: time of this call.
        images_per_second: of the images computed in this call.
        data_wait: share of that time in which the network waited for images, 0 to 1.
    """

    path: Path
    images: int
    feature_dim: int
    skipped: int
    seconds: float
    images_per_second: float
    data_wait: float

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.images:,} images, {self.feature_dim} features each",
            f"{self.images_per_second:,.0f} images/s, {self.data_wait:.0%} of the time waiting for data, "
            f"{self.seconds:.1f} s in all",
        ]
        if self.skipped:
            lines.append(f"{damaged_were(self.skipped)} skipped: see {self.path}.skipped.jsonl")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def embed(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "embeddings.npz",
    batch_size: int | None = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: int | None = None,
    overwrite: bool = False,
    allow_factory: bool = False,
    quiet: bool = False,
) -> Embedded:
    """Write the features of all images of a folder, with their paths, into one file.

    A call that was stopped goes on where it was when it is made again, and gives the same file. Until then its
    features lie in OUT.parts.

    Args:
        run: run folder, a backbone.safetensors file, or a run's checkpoints/last.pt.
        data: folder of images (nested), .npy or .npz array, or the name of a torchvision data set.
        out: file to write: .npz, .parquet (needs pyarrow) or .pt.
        batch_size: images at a time; None means 32 on a CPU, 256 elsewhere.
        device: where the network runs; auto takes an accelerator if there is one.
        precision: fp32, or bf16 for mixed precision; the file holds float32 either way.
        workers: threads that decode images; None means the number of cores, at most 16.
        overwrite: whether OUT may be there already.
        allow_factory: whether a backbone that is a function (package.module:factory) may be called.
        quiet: no progress bar.

    Raises:
        ConfigError, DataError, ArchitectureError: bad input; nothing has been written.
        RunError: weights or output file cannot be used.
    """
    start, path = time.perf_counter(), Path(out).expanduser()
    _check(path, batch_size, workers, overwrite)
    from moco.export.load import load

    work = _Work(load(run, allow_factory=allow_factory), open_images(data), chosen_device(device), precision, quiet)
    return work.run(path, work.identity(run, batch_size), start, workers, overwrite=overwrite)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Everything checked, nothing written."""

    model: Pretrained
    source: Source
    device: torch.device
    precision: str
    quiet: bool

    def run(
        self, path: Path, identity: dict[str, Any], start: float, workers: int | None, *, overwrite: bool
    ) -> Embedded:
        """Compute, write, and say what it cost since `start`; until the end no other process gets at the file."""
        from moco.export.embeddings import Store

        with contextlib.closing(Store(path, identity, self.model.feature_dim, overwrite=overwrite)) as store:
            return self._fill(store, identity, start, workers)

    def _fill(self, store: Store, identity: dict[str, Any], start: float, workers: int | None) -> Embedded:
        before = store.done
        began = time.perf_counter()
        try:
            waited = self._compute(store, identity["batch_size"], workers)
        except KeyboardInterrupt:
            if not self.quiet:
                print(f"{store.done:,} images are safe in {store.folder}: the same command goes on", file=sys.stderr)
            raise
        computing = max(time.perf_counter() - began, 1e-9)
        if store.skipped.count == len(self.source):
            store.remove()  # so that the next call looks at them again
            reason = "; the first: ".join(store.skipped.items()[0])
            raise DataError(f"none of {len(self.source)} images can be read, {reason}: check {self.source.name}")
        rows = store.finish(self.source.item_name, {**identity, **self.model.metadata()})
        return Embedded(
            path=store.out,
            images=rows,
            feature_dim=self.model.feature_dim,
            skipped=store.skipped.count,
            seconds=time.perf_counter() - start,
            images_per_second=(len(self.source) - before) / computing,
            data_wait=waited / computing,
        )

    def _compute(self, store: Store, batch_size: int, workers: int | None) -> float:
        """Seconds that the network waited for images."""
        import torch
        from tqdm import tqdm

        from moco.data.stream import fixed_batches
        from moco.export.embeddings import feature_batches

        self.model.to(self.device).to(memory_format=torch.channels_last)
        batches = Waiting(
            fixed_batches(
                self.source,
                image_size=self.model.preprocess.size,
                batch_size=batch_size,
                skipped=store.skipped,
                first=store.done,
                workers=workers,
            )
        )
        bar = tqdm(total=len(self.source), initial=store.done, unit=" images", disable=self.quiet, leave=False)
        with bar, contextlib.closing(batches.iterator):
            store.append(feature_batches(self.model, batches, device=self.device, precision=self.precision), bar.update)
        return batches.seconds

    def identity(self, run: str | os.PathLike[str], batch_size: int | None) -> dict[str, Any]:
        """What the features depend on."""
        from moco.export.load import backbone_file, digest

        return {
            "weights": digest(backbone_file(run)),
            "images": names_digest(self.source),
            "batch_size": batch_size or (CPU_BATCH if self.device.type == "cpu" else ACCELERATOR_BATCH),
            "device": self.device.type,
            "precision": self.precision,
        }


class Waiting:
    """An iterable that adds up how long its consumer waited for it."""

    def __init__(self, iterator: Any) -> None:
        self.iterator, self.seconds = iterator, 0.0

    def __iter__(self) -> Waiting:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            return next(self.iterator)
        finally:
            self.seconds += time.perf_counter() - start


def open_images(data: Any) -> Source:
    """The images that a user means; of a folder one is enough.

    Raises:
        DataError: nothing there.
    """
    from moco.data.folder import FolderSource
    from moco.data.source import open_source

    if isinstance(data, str | os.PathLike) and Path(data).expanduser().is_dir():
        return FolderSource(Path(data).expanduser())
    return open_source(data)[0]


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


def names_digest(source: Source) -> str:
    """SHA-256 of all image names, in order."""
    import hashlib

    state = hashlib.sha256()
    for index in range(len(source)):
        state.update(source.item_name(index).encode("utf-8", "surrogateescape") + b"\0")
    return state.hexdigest()


def _check(path: Path, batch_size: int | None, workers: int | None, overwrite: bool) -> None:
    from moco.export.table import check_suffix

    check_suffix(path)
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value}: need at least 1")
    if path.exists() and not overwrite:
        raise RunError(f"{path} is there already: choose another --out, or add --overwrite")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent} is no folder: make it, or choose another --out")
