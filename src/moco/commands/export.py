"""`moco export` and `moco.export_weights`: a run's backbone for other tools."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moco.errors import RunError

if TYPE_CHECKING:
    from moco.export.subject import Subject

FormatName = Literal["torchvision", "timm", "huggingface", "safetensors", "onnx", "detectron2", "moco"]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file or folder for another tool, and how near that tool's answers are.

    Attributes:
        path: file or folder.
        format: whose it is.
        difference: largest difference between its target's features and ours, on the same images.
        largest_feature: largest absolute feature, to compare with.
        pixels: largest difference between the target's preprocessing and ours, in normalised units; None where the
            target has none of its own.
        images: how many were compared.
    """

    path: Path
    format: str
    difference: float
    largest_feature: float
    pixels: float | None
    images: int

    def __str__(self) -> str:
        lines = [
            f"{self.path}: read back as {self.format} reads it",
            f"largest difference of features {self.difference:.2g} (features up to {self.largest_feature:.3g}, "
            f"{self.images} images)",
        ]
        if self.pixels is not None:
            lines.append(f"largest difference of preprocessed images {self.pixels:.2g} (normalised units)")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def export_weights(
    run: str | os.PathLike[str],
    *,
    format: FormatName = "safetensors",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    allow_factory: bool = False,
) -> Exported:
    """Write the backbone for another tool, read it back as that tool does, and compare.

    Args:
        run: run folder, a backbone.safetensors file, or a run's checkpoints/last.pt.
        format: torchvision, timm, huggingface (transformers), safetensors, onnx, detectron2, or moco (the
            checkpoint of the method's authors, of v1, v2 or v3).
        out: file or folder to write; None means RUN/export/FORMAT.
        overwrite: whether OUT may be there already; it is replaced.
        allow_factory: whether a backbone that is a function (package.module:factory) may be called.

    Raises:
        ConfigError: the format's package is not installed.
        ArchitectureError: the backbone cannot be expressed in the format; the message names those that fit.
        RunError: weights or output cannot be used, or the target gives other features; nothing has been written.
    """
    from moco.export.formats import export, fitting

    subject = _subject(run, allow_factory=allow_factory, with_checkpoint=format == "moco")
    if out is None:
        from moco.export.load import run_folder

        out = run_folder(run) / "export" / (format + fitting(subject, format).suffix)
        out.parent.mkdir(exist_ok=True)
    path = Path(out).expanduser()
    proof = export(subject, format, path, overwrite=overwrite)
    return Exported(path=path, format=format, **dataclasses.asdict(proof))


def _subject(run: str | os.PathLike[str], *, allow_factory: bool, with_checkpoint: bool) -> Subject:
    from moco.export.load import CHECKPOINT, FILE_NAME, load, run_folder
    from moco.export.subject import Subject

    path, folder = Path(run).expanduser(), run_folder(run)
    model = load(path, allow_factory=allow_factory)
    file = folder / CHECKPOINT if path.is_dir() else path
    if not with_checkpoint or not file.is_file() or path.name == FILE_NAME:
        return Subject(model)
    from moco.training import checkpoint

    state = checkpoint.load(file)
    try:
        epoch = int(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder}/summary.json cannot be read ({error}): resume the run to its end") from error
    return Subject(model, state["model"], epoch)
