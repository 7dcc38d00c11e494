"""`moco pack` and `moco.pack`: from a folder of images to a pack, and what keeps a pack right."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moco.atomic import reason
from moco.data.skipped import damaged_were
from moco.errors import BrokenOffError, ConfigError, DataError, RunError
from moco.fields import check_path, check_processes
from moco.printable import printable

if TYPE_CHECKING:
    from moco.data.folder import FolderSource
    from moco.data.pack_format import Meta, PackOptions
    from moco.data.packed import PackedSource
    from moco.data.packing import PackWriter


@dataclasses.dataclass(frozen=True)
class Packed:
    """A pack and what it holds.

    Attributes:
        path: the folder of the pack; `moco.pretrain(path)` reads it.
        done: packed, unchanged (it was there already), verified or detached.
        images: images in it.
        damaged: files that could not be read; damaged.jsonl in the pack has the reasons.
        classes: classes of its labels, 0 where there are none.
        bytes: size of the images.
        format, short_side: as they were packed.
        shape: height and width where all images have one size, else None.
    """

    path: Path
    done: str
    images: int
    damaged: int
    classes: int
    bytes: int
    format: str
    short_side: int
    shape: tuple[int, int] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        size = "sizes differ" if self.shape is None else f"all of {self.shape[1]} x {self.shape[0]}"
        classes = f" of {self.classes} classes" if self.classes else ""
        lines = [
            f"{printable(self.path)} ({self.done}): {self.images:,} images{classes}, {self.bytes / 2**20:,.1f} MiB, "
            f"{self.format}, {size}"
        ]
        if self.damaged:
            lines.append(f"{damaged_were(self.damaged, 'file')} left out: see {printable(self.path / 'damaged.jsonl')}")
        return "\n".join([*lines, f"to learn from it: moco pretrain {printable(self.path)}"])


def pack(
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    short_side: int = 256,
    format: Literal["jpeg", "raw"] = "jpeg",
    quality: int = 95,
    channels: int | None = None,
    workers: int | None = None,
    replace: bool = False,
    verify: bool = False,
    detach: bool = False,
    quiet: bool = False,
) -> Packed:
    """Store a folder of images decoded once, made small and together, for faster reading; or check such a pack.

    Args:
        data: a folder of images; with verify or detach, a pack.
        out: folder of the pack to make; what was interrupted there goes on.
        short_side: pixels to which the shorter side of larger images is reduced; 0 keeps every size.
        format: jpeg, or raw (a byte a channel, nothing to decode; images of one size are then cropped in batches).
        quality: of the JPEG files that are made, 1 to 100; a JPEG that is small already keeps its own bytes.
        channels: of the images; None means 3 for grey, RGB and both with alpha, else all; others than 3 and 1 need raw.
        workers: threads; None means the number of cores, at most 16.
        replace: make anew what was made, or begun, from other images or with other options.
        verify: compare every record with its checksum, and the folder that was packed with what it was.
        detach: forget the folder that was packed, so that changes in it are no longer looked for.
        quiet: no progress bar.

    Raises:
        MocoError: options that do not go together, images or a pack that cannot be used, a full disk.
    """
    check_path("data", data)
    check_path("out", out)
    options = {"short_side": short_side, "format": format, "quality": quality}
    if verify or detach:
        _check_alone(
            {**options, "channels": channels, "workers": workers, "out": out, "replace": replace}, verify, detach
        )
        return _verified_or_detached(Path(data), verify=verify, quiet=quiet)
    if out is None:
        raise ConfigError(f"pack {data} without out: name the pack, as in --out {Path(data).name}.pack")
    return _packed(Path(data), Path(out), options, channels, workers, replace=replace, quiet=quiet)


def _check_alone(making: dict[str, Any], verify: bool, detach: bool) -> None:
    """Refuse what belongs to making a pack beside what checks one."""
    defaults = inspect.signature(pack).parameters
    stated = [name for name, value in making.items() if value != defaults[name].default]
    if stated or verify == detach:
        raise ConfigError(
            f"verify and detach go alone with a pack: give one of them and leave out {', '.join(stated) or 'the other'}"
        )


def _verified_or_detached(path: Path, *, verify: bool, quiet: bool) -> Packed:
    from moco.data.pack_format import is_pack
    from moco.data.packed import PackedSource

    if not is_pack(path):
        what = "not a pack" if path.exists() else "no such folder"
        raise DataError(f"{path}: {what}; expected a folder that moco pack made")
    pack = PackedSource(path, check_source=False)
    if verify:
        pack.verify(show_progress=not quiet)
        return _report(pack, "verified")
    dataclasses.replace(pack.meta, source=None).write(path)
    return _report(pack, "detached")


def _packed(
    data: Path,
    target: Path,
    chosen: dict[str, Any],
    channels: int | None,
    workers: int | None,
    *,
    replace: bool,
    quiet: bool,
) -> Packed:
    from moco.data.folder import FolderSource
    from moco.data.pack_format import PARTIAL, PackOptions
    from moco.data.packed import PackedSource
    from moco.data.packing import PackWriter
    from moco.data.source import open_source

    check_processes("workers", workers, least=1)
    options, (source, _) = PackOptions(**chosen), open_source(data, channels=channels)
    if isinstance(source, PackedSource):
        raise DataError(f"{data}: a pack already; check it with --verify, or give the folder that it was made from")
    if not isinstance(source, FolderSource):
        raise DataError(f"{data}: not a folder of images, so there is nothing to pack: moco pretrain reads it as it is")
    meta = _meta(options, source)
    _check_target(target)
    if target.exists() and not replace:
        meta.check_same(target)
        return _report(PackedSource(target), "unchanged")
    say: Any = (lambda _: None) if quiet else lambda line: print(printable(line), file=sys.stderr)
    for line in source.remarks:
        say(line)
    try:
        with PackWriter(target, meta, restart=replace) as writer:
            packed = _report(_filled(writer, source, workers, quiet, say), "packed")
    except OSError as error:
        cure = "once that is cured, the same command goes on"
        kind = BrokenOffError if target.with_name(target.name + PARTIAL).is_dir() else RunError
        raise kind(f"cannot write {target}: {reason(error)}; {cure}") from error
    if line := source.closing_line():
        say(line)
    return packed


def _check_target(target: Path) -> None:
    """Refuse what is there and is no pack; of a pack, remove the lock of a process that was killed at its end."""
    from moco.data.folder_lock import clear_lock
    from moco.data.pack_format import is_pack

    if target.exists() and not is_pack(target):
        raise DataError(f"{target}: there already, and not a pack: choose another --out")
    clear_lock(target)


def _meta(options: PackOptions, source: FolderSource) -> Meta:
    from moco.data.fingerprint import Fingerprint
    from moco.data.pack_format import Meta

    if options.format == "jpeg" and source.channels not in (1, 3):
        raise ConfigError(f"format='jpeg' with images of {source.channels} channels: choose raw (--format raw)")
    meta = Meta(options, source.class_names, str(source.root.resolve()), Fingerprint.take(source))
    return dataclasses.replace(meta, value_range=source.value_range, channels=source.channels)


def _filled(writer: PackWriter, source: FolderSource, workers: int | None, quiet: bool, say: Any) -> PackedSource:
    from moco.data.packing import pack_folder

    if writer.position:
        say(f"going on behind {writer.position:,} of {len(source):,} images")
    try:
        pack_folder(source, writer, workers=workers, show_progress=not quiet)
    except KeyboardInterrupt:
        say(f"{writer.position:,} of {len(source):,} images are packed: the same command goes on from there")
        raise
    return writer.finish(show_progress=not quiet)


def _report(pack: PackedSource, done: str) -> Packed:
    meta, kind, side = pack.meta, pack.meta.options.format, pack.meta.options.short_side
    counts = {"images": meta.images, "damaged": meta.damaged, "classes": len(meta.class_names)}
    return Packed(pack.path, done, **counts, bytes=meta.data_bytes, format=kind, short_side=side, shape=meta.shape)
