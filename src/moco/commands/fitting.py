"""Whether a run is fitted to images, machine and time, and its assembly with what is expected of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moco.config import Config
from moco.errors import ConfigError
from moco.recipes import configure
from moco.training.launcher import check_nodes, is_first_process, launcher

if TYPE_CHECKING:
    from moco.training.images import RunImages
    from moco.training.pretrain import Pretraining
    from moco.training.run_folder import RunFolder

FITTED = "MOCO_FITTED"  # environment of processes that are started for further devices: what the first one has fitted


def is_fitted(data: Any, recipe: str | None) -> bool:
    """Whether options that are not stated are decided by the rules of `moco.fit`.

    Raises:
        ConfigError: the recipe auto without images.
    """
    if data is None and recipe == "auto":
        raise ConfigError("recipe='auto' without data: it fits a run to images of yours, name them")
    return data is not None and recipe in (None, "auto")


def check_ignored(
    budget: str | None, dry_run: bool, changed_images: bool, *, fits: bool, recipe: str | None, resume: bool
) -> None:
    """Refuse a budget, a dry run or changed images where they would be ignored.

    Raises:
        ConfigError: the first two on resume, the last without, and a budget for what is not fitted.
    """
    if changed_images and not resume:
        raise ConfigError("changed_images without resume: it takes a folder that has changed since the run began")
    if resume and (budget is not None or dry_run):
        what = "dry_run" if budget is None else f"budget={budget}"
        raise ConfigError(f"{what} with resume: a run is resumed with the length that it has, leave it out")
    if budget is not None and not fits:
        what = "a whole configuration or the picture book" if recipe is None else f"recipe={recipe!r}"
        raise ConfigError(f"budget={budget} with {what}: it is for images without a recipe; state steps or epochs")


def carry_out(
    data: Any,
    config: Config,
    folder: RunFolder,
    stated: dict[str, Any] | None,
    budget: str | None,
    *,
    resume: bool,
    dry_run: bool,
    **extras: Any,
) -> None:
    """Run it, or only say what would be.

    Args:
        data, config, folder: of the run.
        stated: the options to fit a run around; None where nothing is to be fitted.
        budget: time for a fitted run, as text.
        resume, dry_run: as `moco.pretrain` takes them.
        extras: what else `Pretraining` takes.
    """
    check_nodes(config.num_nodes)
    if config.backbone.startswith("module/") and extras["module"] is None:
        raise ConfigError(f"backbone={config.backbone!r} is a module of the user's: hand it over with backbone=")
    run = _assembled(data, config, folder, stated, budget, resume=resume, dry_run=dry_run, **extras)
    if not dry_run:
        with _told_to_further_ranks(None if stated is None else run.config):
            run.run(resume=resume)


def _assembled(
    data: Any,
    config: Config,
    folder: RunFolder,
    stated: dict[str, Any] | None,
    budget: str | None,
    *,
    quiet: bool,
    resume: bool,
    dry_run: bool,
    start: float,
    **extras: Any,
) -> Pretraining:
    """The run: fitted around the stated options where something is left to decide, else with its prediction.

    A stored configuration of a fitted run is not measured.
    """
    from moco.fit import plan
    from moco.training.pretrain import Pretraining

    def assemble(config: Config, images: RunImages | None = None) -> Pretraining:
        return Pretraining(data, config, folder, images=images, quiet=quiet, start=start, **extras)

    fits = stated is not None and not plan.is_complete(stated) and not resume
    if fits and (launched := launcher()) and launched.devices * launched.num_nodes > 1:  # each would decide by itself
        cure = "give --recipe, or --config with what moco pretrain has fitted in one process"
        raise ConfigError(f"no recipe under {launched.name}: {cure}")
    if not is_first_process() or resume:
        told = None if resume else os.environ.get(FITTED)
        return assemble(config if told is None else configure("auto", json.loads(told), strict=False))
    if stated is not None and fits:
        return plan.fitted(data, stated, budget=budget, assemble=assemble, start=start, quiet=quiet)
    if budget is not None:
        raise ConfigError(f"budget={budget} with a configuration that states its length: leave it out")
    run = assemble(config)
    if dry_run or not (quiet or stated is not None or config.recipe == "auto"):
        plan.predicted(run, start=start, quiet=quiet)
    return run


@contextlib.contextmanager
def _told_to_further_ranks(config: Config | None) -> Iterator[None]:
    """Inside, processes for further devices, which run this command again, know what has been fitted."""
    if config is None or not is_first_process():
        yield
        return
    os.environ[FITTED] = json.dumps(dataclasses.asdict(config))
    try:
        yield
    finally:
        del os.environ[FITTED]
