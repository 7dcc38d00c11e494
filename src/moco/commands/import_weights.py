"""`moco import` and `moco.import_weights`: checkpoints of other projects as a run folder of ours."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.atomic import write_json, written
from moco.data.folder_lock import LOCK, locked
from moco.errors import RunError
from moco.fields import LARGEST_SIDE, check_number, check_path
from moco.normalization import normalization_values
from moco.printable import printable
from moco.sizes import Size, StatedSize, height_width, size_of, size_text

if TYPE_CHECKING:
    from torch import Tensor

    from moco.export.foreign import Foreign
    from moco.export.layouts import Recognised
    from moco.export.load import Pretrained


@dataclasses.dataclass(frozen=True)
class Imported:
    """What a file turned out to be and where its backbone is now.

    Attributes:
        path: the run folder, for `moco.load`, `moco embed`, `moco export`.
        kind: whose checkpoint it was.
        architecture, stem, feature_dim: of the backbone.
        num_heads: attention heads, where they are not the architecture's own number; else None.
        image_size: side in pixels for which images are prepared.
        parameters: in the whole file, without BatchNorm statistics and queue.
        head, others: what was left out: names of the head's tensors; first parts of other names.
        preprocessing, preprocessing_source: how images are prepared; the file that says it, None where it is assumed.
    """

    path: Path
    kind: str
    architecture: str
    stem: str
    num_heads: int | None
    feature_dim: int
    image_size: Size
    parameters: int
    head: tuple[str, ...]
    others: tuple[str, ...]
    preprocessing: dict[str, Any]
    preprocessing_source: str | None

    def __str__(self) -> str:
        heads = f", {self.num_heads} heads" if self.num_heads else ""
        left_out = [f"head ({len(self.head)} tensors)"] * bool(self.head) + list(self.others)
        mean = ", ".join(f"{value:g}" for value in self.preprocessing["mean"])
        centre = "centre" if isinstance(self.image_size, tuple) else "centre square"
        source = f"from {self.preprocessing_source}" if self.preprocessing_source else "the file does not say"
        return "\n".join(
            [
                f"{self.kind}, {self.parameters:,} parameters: {self.architecture}, stem {self.stem}{heads}",
                f"left out: {', '.join(left_out) or 'nothing'}",
                f"images: {centre} at {size_text(self.image_size)} px, mean {mean} ({source})",
                f"run folder {printable(self.path)}: backbone.safetensors, {self.feature_dim} features",
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def import_weights(
    file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    architecture: str | None = None,
    stem: str | None = None,
    image_size: StatedSize | None = None,
    num_heads: int | None = None,
    normalization: str | None = None,
) -> Imported:
    """Take the backbone out of another project's checkpoint; no code of the file is run.

    Args:
        file: checkpoint of MoCo v1, v2, v3, SimSiam, DINO, BYOL, lightly, solo-learn, mmselfsup or VISSL, weights of
            torchvision, timm or transformers (a file, or their folder), or an export of ours.
        out: run folder to make; None means runs/NAME.
        architecture: torchvision/NAME, timm/NAME or package.module:factory; None means what names and shapes tell.
        stem: of a ResNet whose 3x3 stem the file cannot tell: 3x3-stride1, 3x3-stride2 or one of the peers' kinds.
        image_size: pixels of prepared images, 64 or 64x96; None means the file's, a ViT's, else 224, small stems 32.
        num_heads: attention heads of a ViT, where the file cannot tell: a ViT-S has 12 in MoCo v3, 6 in timm.
        normalization: imagenet, cifar, none or MEAN/STD (0.5,0.5,0.5/0.2,0.2,0.2); None means the file's, else
            cifar for small stems, else imagenet.

    Raises:
        ConfigError, ArchitectureError: a wrong value, an unknown layout, or other keys than the head's are missing.
        RunError: a file that cannot be read safely, or an output folder that cannot be used.
    """
    from moco.data.preprocess import Preprocessing
    from moco.export.convert import convert
    from moco.export.foreign import read_foreign
    from moco.export.reading import understood

    size = _checked(file, out, image_size, num_heads)
    path, channels = Path(file).expanduser(), None if normalization is None else normalization_values(normalization)
    folder = _free_folder(path, out)
    with understood(path):
        foreign = read_foreign(path)
    own_code = architecture is not None and ":" in architecture  # whose errors stay what they are
    with contextlib.nullcontext() if own_code else understood(path):
        options: Any = {"architecture": architecture, "stem": stem, "image_size": size, "num_heads": num_heads}
        model, recognised, head = convert(foreign, path, **options)
    if channels is not None:
        model.prepare_by(Preprocessing(model.preprocess.size, *channels))
    source = "normalization" if channels else foreign.stated.source if foreign.stated else None
    imported = _described(folder, foreign, model, recognised, head=head, preprocessing_source=source)
    return _written(imported, model, foreign.path)


def _described(folder: Path, foreign: Foreign, model: Pretrained, recognised: Recognised, **rest: Any) -> Imported:
    """What is to be said of the weights."""
    return Imported(
        path=folder,
        kind=recognised.kind.name,
        architecture=model.architecture,
        stem=model.stem,
        num_heads=model.num_heads,
        feature_dim=model.feature_dim,
        image_size=model.preprocess.size,
        parameters=count_parameters(foreign.tensors),
        others=recognised.others,
        preprocessing=model.preprocess.as_dict(),
        **rest,
    )


def _checked(file: Any, out: Any, image_size: StatedSize | None, num_heads: int | None) -> Size | None:
    """The size in its one form, where all of them can be meant."""
    for name, value in (("file", file), ("out", out)):
        check_path(name, value)
    check_number("num_heads", num_heads, 1)
    size = None if image_size is None else size_of(image_size)
    for side in () if size is None else height_width(size):
        check_number("image_size", side, 8, LARGEST_SIDE)
    return size


def _free_folder(file: Path, out: str | os.PathLike[str] | None) -> Path:
    folder = Path(out).expanduser() if out is not None else Path("runs") / file.name.partition(".")[0]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} holds something already: choose another --out")
    return folder


def _written(imported: Imported, model: Pretrained, file: Path) -> Imported:
    from moco.export.backbone import write_backbone
    from moco.export.reading import FILE_NAME

    folder = imported.path
    partial = folder.with_name(f".{folder.name}.partial")  # half a run would be in the way of the same command
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    with written(folder):
        partial.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(locked(partial, "moco import: wait for it or choose another --out")):
        try:
            _free_folder(file, folder)  # asked again, as another import may just have ended
            write_backbone(model.backbone, partial / FILE_NAME, metadata=model.metadata())
            write_json(partial / "import.json", {**imported.as_dict(), "file": file.name, "sha256": digest})
            with written(folder):
                if folder.exists():
                    folder.rmdir()
                (partial / LOCK).unlink()
                os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return imported


def count_parameters(tensors: dict[str, Tensor]) -> int:
    """Numbers that are learnt, counters, statistics and queues left out."""
    others = ("running_mean", "running_var", "num_batches_tracked", "queue", "queue_ptr")
    return sum(tensor.numel() for name, tensor in tensors.items() if name.rpartition(".")[2] not in others)
