"""`moco export` and `moco.export_weights`: a backbone for other tools."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

from moco.atomic import written
from moco.errors import ConfigError, RunError
from moco.fields import check_path
from moco.printable import printable

TYPE_CHECKING = False  # not typing's, whose imports the command line's parser would run, and so load PyTorch
if TYPE_CHECKING:
    from moco.data.preprocess import Preprocessing
    from moco.export.load import Weights
    from moco.export.subject import Subject
else:
    Weights = str  # the command line gives text
    Preprocessing = object

FormatName = Literal["torchvision", "timm", "huggingface", "safetensors", "onnx", "detectron2", "moco"]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file or folder for another tool, and how near that tool's answers are.

    Attributes:
        path: file or folder.
        format: whose it is.
        difference: largest difference between its target's features and ours, from the same JPEG files.
        largest_feature: largest absolute feature, to compare with.
        pixels: largest difference between the target's preprocessing and ours, in normalised units; None where the
            target has none of its own.
        images: how many files were compared.
        configurations: detectron2's, of the paper's runs from these weights; none where none were asked for.
    """

    path: Path
    format: str
    difference: float
    largest_feature: float
    pixels: float | None
    images: int
    configurations: tuple[Path, ...] = ()

    def __str__(self) -> str:
        whose = "ours, as it has none" if self.pixels is None else f"its own, {self.pixels:.2g} from ours at most"
        also = "".join(f"\n{printable(file)}" for file in self.configurations)
        return (
            f"{printable(self.path)}: read back as {self.format} reads it\n"
            f"from {self.images} images to features: largest difference {self.difference:.2g} (features up to "
            f"{self.largest_feature:.3g}); preprocessing {whose}{also}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        files = [str(file) for file in self.configurations]
        return {**dataclasses.asdict(self), "path": str(self.path), "configurations": files}


def export_weights(
    run: Weights,
    *,
    format: FormatName = "safetensors",
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    configs: str | os.PathLike[str] | None = None,
    allow_factory: bool = False,
    preprocessing: Preprocessing | None = None,
) -> Exported:
    """Write the backbone for another tool, read it back as that tool does, and compare.

    Args:
        run: run folder, a backbone.safetensors file, or a run's checkpoints/last.pt; in Python also a `moco.Run`, what
            `moco.load` gave, or a module (N, 3, H, W) -> (N, D) with its `preprocessing`.
        format: torchvision, timm, huggingface (transformers), safetensors, onnx, detectron2, or moco (the
            checkpoint of the method's authors, of v1, v2 or v3).
        out: file or folder to write; None means RUN/export/FORMAT.
        overwrite: whether OUT may be there already; it is replaced.
        configs: folder for the paper's detection runs as detectron2's YAML files, with these weights; for detectron2.
        allow_factory: whether a backbone that is a function (package.module:factory) may be called.
        preprocessing: how images go in, for a module; instead of the run's own for the others.

    Raises:
        ConfigError: the format's package is not installed, or a module without `out` or `preprocessing`.
        ArchitectureError: the backbone cannot be expressed in the format; the message names those that fit.
        RunError: weights or output cannot be used, or the target gives other features; nothing has been written.
    """
    from moco.export.formats import export
    from moco.export.load import load, weights_path
    from moco.export.subject import Subject

    check_path("out", out)
    folder = _free_folder(configs, format, overwrite=overwrite)
    path = weights_path(run)
    subject = Subject(load(run, preprocessing=preprocessing, allow_factory=allow_factory))
    if format == "moco" and path is not None:
        subject = _with_checkpoint(subject, path)
    target = _default(subject, path, format) if out is None else Path(out).expanduser()
    proof = export(subject, format, target, overwrite=overwrite)
    files = () if folder is None else _configurations(subject, target, folder)
    return Exported(path=target, format=format, configurations=files, **proof._asdict())


def _free_folder(configs: str | os.PathLike[str] | None, format: FormatName, *, overwrite: bool) -> Path | None:
    """The folder for configurations, if there may be any."""
    if configs is None:
        return None
    check_path("configs", configs)
    if format != "detectron2":
        raise ConfigError(f"configs={configs} would change nothing with format {format}: leave it out")
    folder = Path(configs).expanduser()
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: choose another folder, as in --configs configs")
    if folder.is_dir() and any(folder.glob("*.yaml")) and not overwrite:
        raise RunError(f"{folder} has YAML files already: choose another --configs, or add --overwrite")
    return folder


def _configurations(subject: Subject, weights: Path, folder: Path) -> tuple[Path, ...]:
    from moco.export import to_detectron2
    from moco.export.detectron2_runs import write_runs

    return write_runs(folder, {**to_detectron2.options(subject), "MODEL.WEIGHTS": str(weights.resolve())})


def _default(subject: Subject, path: Path | None, format: FormatName) -> Path:
    from moco.export.formats import fitting
    from moco.export.reading import run_folder

    if path is None:
        raise ConfigError("out=None with a module: name the file or folder to write")
    target = run_folder(path) / "export" / (format + fitting(subject, format).suffix)
    with written(target):
        target.parent.mkdir(exist_ok=True)
    return target


def _with_checkpoint(subject: Subject, path: Path) -> Subject:
    from moco.export.reading import CHECKPOINT, FILE_NAME, run_folder
    from moco.training import checkpoint

    folder = run_folder(path)
    file = folder / CHECKPOINT if path.is_dir() else path
    if not file.is_file() or path.name == FILE_NAME:
        return subject
    try:
        epoch = int(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise RunError(f"{folder}/summary.json cannot be read ({error}): resume the run to its end") from error
    return dataclasses.replace(subject, checkpoint=checkpoint.load(file)["model"], epoch=epoch)
