"""`moco pretrain` and `moco.pretrain`: from images to a run folder."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moco.config import Config
from moco.errors import ConfigError, RunError
from moco.recipes import configure, default_recipe
from moco.training.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np

    from moco.data.source import Source


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and what came of it.

    Attributes:
        path: the run folder.
        summary: the content of its summary.json.
        finished: False if it was stopped by Ctrl-C; `resume=True` continues it.
    """

    path: Path
    summary: dict[str, Any]
    finished: bool

    @property
    def backbone(self) -> Path:
        """The trained weights, a safetensors file."""
        return self.path / "backbone.safetensors"


def pretrain(
    data: str | os.PathLike[str] | np.ndarray | Source | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    resume: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Pretrain an encoder on images without labels and leave a run folder.

    Args:
        data: a folder of images (nested, with or without class folders), a .npy/.npz file, the name of a torchvision
            data set (downloaded), a uint8 array (N, H, W, 3), or None for the embedded picture book.
        out: run folder, empty or not there yet; None means runs/NAME-RECIPE with a number.
        recipe: v1, v2, v3, v3-vit, cifar or picturebook; None means v2 (picturebook for the embedded set).
        resume: continue the run in `out`; its options are those of the run.
        quiet: neither messages nor a progress bar.
        options: fields of `moco.Config` that differ from the recipe's.

    Raises:
        ConfigError, DataError, ArchitectureError: bad input; nothing has been written.
        RunError: the folder cannot be used, or the training failed; the last good checkpoint is kept.
    """
    start = time.perf_counter()
    given = dict(options)
    if resume:
        folder, data, config = _stored(data, out, recipe, given)
    else:
        config = configure(recipe or default_recipe(data), given)
        folder = RunFolder(Path(out) if out is not None else _free_folder(data, config.recipe))
    if _is_first_process():
        folder.check(resume=resume)
    from moco.pretraining import Pretraining

    work = Pretraining.prepare(data, config, folder, quiet=quiet, start=start)
    summary = work.run(resume=resume)
    return Run(folder.path, summary, bool(summary["finished"]))


def _stored(
    data: Any, out: str | os.PathLike[str] | None, recipe: str | None, given: dict[str, Any]
) -> tuple[RunFolder, Any, Config]:
    """The folder, data and configuration of the run to resume; options that contradict it are refused."""
    if out is None:
        raise ConfigError("resume without out: name the run folder to continue")
    folder = RunFolder(Path(out))
    folder.check(resume=True)
    try:
        stored = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        stored_data = stored.pop("data")
        config = configure(stored.pop("recipe"), stored)
    except (yaml.YAMLError, AttributeError, KeyError, ConfigError) as error:
        raise RunError(f"{folder.config} cannot be read ({str(error).splitlines()[0]}): restore it") from error
    changed = {k: v for k, v in given.items() if _plain(v) != _plain(getattr(config, k, None))}
    if recipe is not None and recipe != config.recipe:
        changed["recipe"] = recipe
    if isinstance(data, str | os.PathLike) and stored_data != os.fspath(data):
        changed["data"] = os.fspath(data)
    if changed:
        raise ConfigError(
            f"{', '.join(f'{k}={v}' for k, v in changed.items())} differs from the run in {folder.path}: "
            "resume it with its own options, or start a new run in another folder"
        )
    return folder, stored_data if data is None else data, config


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_first_process() -> bool:
    """Whether this is the process that the user started, and not one that it launched for a further device."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def _free_folder(data: Any, recipe: str) -> Path:
    name = "picturebook" if data is None else "images"
    if isinstance(data, str | os.PathLike):
        name = re.sub(r"[^\w.-]+", "-", Path(data).resolve().stem) or name
    for number in range(1, 10_000):
        path = Path("runs") / f"{name}-{recipe}-{number}"
        if not path.exists():
            return path
    raise ConfigError("10,000 runs of this name lie in runs/: choose --out")
