"""`--resume`: the run in a folder, and which of its options may be others from here on."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.config import Config
from moco.config_checks import check_factory
from moco.config_file import OWN_VIEWS, read_config
from moco.errors import ConfigError
from moco.normalization import AUTO
from moco.printable import printable
from moco.sizes import size_text

if TYPE_CHECKING:
    from torch import nn

    from moco.commands.starting_weights import Init
    from moco.training.images import Earlier
    from moco.training.run_folder import RunFolder

LENGTH = ("steps", "epochs", "patience")
# What a run may be resumed with: it decides how long, how fast and where it goes on, and what is seen of it.
MAY_CHANGE = (
    *LENGTH,
    *("workers", "cache_gib", "threads", "devices", "num_nodes", "accelerator", "precision", "layout", "compile"),
    *("activation_checkpointing", "chunk_size"),
    *("log_every", "knn_evaluations", "checkpoint_minutes", "keep_checkpoints"),
)
PLACES = ("test", "labels", "data_root")  # may have moved; what lies there is compared


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """A run to go on with.

    Attributes:
        folder: where it is.
        data: its images.
        earlier: what it had.
        config: its configuration from here on.
        finished: whether there is nothing to do.
    """

    folder: RunFolder
    data: Any
    earlier: Earlier
    config: Config
    finished: bool


def stored_run(
    data: Any, out: str | os.PathLike[str] | None, recipe: str | None, given: dict[str, Any], *, changed_images: bool
) -> StoredRun:
    """The run in `out`, with the options that are `given` anew.

    Raises:
        ConfigError: an option that decides what is learnt differs from the run's.
        RunError: there is no run.
    """
    from moco.data.record import RunRecord
    from moco.training.images import Earlier, place_of
    from moco.training.run_folder import RunFolder

    if out is None:
        raise ConfigError("resume without out: name the run folder to continue")
    folder = RunFolder(Path(out))
    folder.check(resume=True)
    before, stored_data = read_config(folder.config)
    differing = {name: (getattr(before, name, None), value) for name, value in given.items()}
    differing["recipe"] = (before.recipe, recipe or before.recipe)
    differing = {name: pair for name, pair in differing.items() if _differ(name, *pair)}
    refused = [name for name in differing if name not in (*MAY_CHANGE, *PLACES)]
    refused += [name for name in PLACES if name in differing and None in differing[name] and name != "data_root"]
    if (data is None) != (stored_data is None) and stored_data in (None, "array"):
        what = "the picture book" if stored_data is None else "an object of the user's: hand it over as data"
        raise ConfigError(f"the run in {folder.path} learns from {what}")
    if refused:
        has, asked = (", ".join(f"{name}={_said(name, differing[name][at])}" for name in refused) for at in (0, 1))
        raise ConfigError(
            f"the run in {folder.path} has {has}, not {asked}: resume it with its own options, or start a new run in "
            "another folder"
        )
    changed = {name: place_of(value) if name in PLACES else value for name, (_, value) in differing.items()}
    config = dataclasses.replace(before, **_one_length(changed))
    finished = _finished(folder) and not set(LENGTH) & changed.keys()
    earlier = Earlier(before, RunRecord.read(folder.record), changed_images)
    return StoredRun(folder, stored_data if data is None else data, earlier, config, finished)


def say_finished(stored: StoredRun, *, quiet: bool) -> None:
    """That nothing was done, and what would be. A lock that the run left, killed at its very end, is removed."""
    from moco.data.folder_lock import clear_lock

    clear_lock(stored.folder.path)
    if not quiet:
        length = "epochs" if stored.config.steps is None else "steps"
        print(
            f"the run in {printable(stored.folder.path)} has finished and stays as it is: more than its "
            f"{getattr(stored.config, length):,} {length} continue it",
            file=sys.stderr,
        )


def _said(name: str, value: Any) -> str:
    return size_text(value) if name == "image_size" else str(value)


def _one_length(changed: dict[str, Any]) -> dict[str, Any]:
    """With steps in the place of epochs or the other way round."""
    options = dict(changed)
    if options.get("steps") is not None:
        options.setdefault("epochs", None)
    elif options.get("epochs") is not None:
        options.setdefault("steps", None)
    return options


def _differ(name: str, stored: Any, given: Any) -> bool:
    """Whether an option is another one; paths compare as places."""
    if name in (*PLACES, "init") and isinstance(stored, str) and isinstance(given, str | os.PathLike):
        return os.path.realpath(Path(stored).expanduser()) != os.path.realpath(Path(given).expanduser())
    if name == "normalization" and given == AUTO:  # what it found is stored
        return False
    if name in ("precision", "layout") and given == "auto":
        return True
    return bool(stored != (tuple(given) if isinstance(given, list) else given))


def _finished(folder: RunFolder) -> bool:
    try:
        return json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))["finished"] is True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def check_resumed(stored: StoredRun, given: dict[str, Any], transform: Any, *, allow_factory: bool) -> None:
    """Whether a function that the run alone names may be called, and a transform of the user's is handed over to the
    run that has one, and to no other.

    Raises:
        ArchitectureError, ConfigError: it is not so.
    """
    folder = stored.folder
    if stored.config.backbone != given.get("backbone"):
        check_factory(stored.config.backbone, file=folder.config, allowed=allow_factory)
    own = OWN_VIEWS in folder.config.read_text(encoding="utf-8")
    if own and transform is None:
        raise ConfigError(f"the run in {folder.path} has a transform of the user's: hand it over with transform=")
    if not own and transform is not None:
        raise ConfigError(f"the run in {folder.path} has the views of its configuration: resume it without transform=")


def resumed_module(init: Init | None, given: dict[str, Any], module: nn.Module | None) -> nn.Module | None:
    """The module to train; what a run that started from these weights has goes into `given`."""
    if init is None:
        return module
    from moco.commands.starting_weights import label, own_module

    given["init"] = label(init)
    if own_module(init):
        given["backbone"], module = f"module/{type(init).__name__}", init  # type: ignore[assignment]
    return module
