"""`moco pretrain` and `moco.pretrain`: from images to a run folder."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from moco.commands.fitting import carry_out, check_ignored, is_fitted
from moco.commands.options import Options
from moco.commands.resuming import check_resumed, resumed_module, say_finished, stored_run
from moco.config import Config
from moco.config_checks import check_factory, check_stated
from moco.config_file import read_config
from moco.errors import ConfigError, RunError
from moco.fields import check_path
from moco.recipes import configure, default_recipe
from moco.sizes import size_of
from moco.training.launcher import is_first_process, options_of_launcher

if TYPE_CHECKING:
    from torch import nn

    from moco.commands.starting_weights import Init, StartingWeights
    from moco.contrast import ContrastiveModel
    from moco.data.user_data import Images
    from moco.data.user_transform import Transform
    from moco.export.load import Pretrained
    from moco.training.callbacks import Callback
    from moco.training.loggers import Chosen


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and what came of it; `Run(path)` opens one that is there already.

    Attributes:
        path: the run folder.
        module: the user's own backbone, where the run was given one; it has trained in place.
        allow_factory: whether `model` may call a function (package.module:factory) that its files name as backbone.
    """

    path: Path
    module: nn.Module | None = dataclasses.field(default=None, repr=False)
    allow_factory: bool = dataclasses.field(default=False, repr=False)

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """The content of its summary.json.

        Raises:
            RunError: there is none that can be read.
        """
        file = Path(self.path) / "summary.json"
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{file} cannot be read ({error}): resume the run, or name another") from error

    @property
    def finished(self) -> bool:
        """False if it was stopped by Ctrl-C; `resume=True` continues it."""
        return self.summary.get("finished") is True

    @functools.cached_property
    def config(self) -> Config:
        """Its configuration."""
        return read_config(Path(self.path) / "config.yaml")[0]

    @property
    def weights(self) -> Path:
        """The trained backbone, a safetensors file."""
        return Path(self.path) / "backbone.safetensors"

    @functools.cached_property
    def backbone(self) -> Pretrained:
        """The trained backbone, loaded, in eval mode on the CPU; see `moco.load`."""
        from moco.export.load import load

        return load(self)

    @functools.cached_property
    def model(self) -> ContrastiveModel:
        """Both encoders with their heads, and the dictionary, as the newest checkpoint has them, on the CPU."""
        from moco.training.mechanism import restored_model
        from moco.training.run_folder import RunFolder

        check_factory(self.config.backbone, file=self.path, allowed=self.allow_factory)
        return restored_model(self.config, RunFolder(Path(self.path)).checkpoint, copy.deepcopy(self.module))


def pretrain(
    data: Images = None,
    *,
    out: str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    config: Config | None = None,
    budget: str | None = None,
    resume: bool = False,
    changed_images: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    allow_factory: bool = False,
    backbone: str | nn.Module | None = None,
    init: Init | None = None,
    transform: Transform | tuple[Transform, Transform] | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Chosen = None,
    **options: Unpack[Options],
) -> Run:
    """Pretrain an encoder on images without labels and leave a run folder.

    Args:
        data: a folder of images (nested, with or without class folders) or several, a .npy/.npz file, the name of a
            torchvision data set (downloaded), an array (N, H, W, C), a tensor, a `torch.utils.data.Dataset`, a
            Hugging Face data set, a list of paths or PIL images, or None for the embedded picture book.
        out: run folder, empty or not there yet; None means runs/NAME-RECIPE with a number.
        recipe: auto, v1, v2, v3, v3-vit, fast, cifar, picturebook or curl; None means auto, which fits all that is not
            stated to images, machine and time (`moco.fit.rules`), and picturebook for the embedded set.
        config: a whole configuration instead of recipe and options.
        budget: time for a fitted run, such as 90s, 30m or 8h; None means 30m on a CPU, 8h on a GPU.
        resume: continue the run in `out` with its own options. Others may be stated for length (steps, epochs,
            patience), where and how fast it goes on (devices, num_nodes, accelerator, precision, layout, compile,
            activation_checkpointing, chunk_size, threads, workers, cache_gib), log_every, knn_evaluations, checkpoints,
            and places that have moved (data, test, labels, data_root). A finished run stays, but for another length.
        changed_images: resume although images have changed, come or gone; those that were held out stay so.
        dry_run: say what the run would be and take, and write nothing.
        quiet: neither messages nor a progress bar.
        allow_factory: whether a backbone that is a function (package.module:factory) may be called where only the
            run that is resumed names it.
        backbone: name, or a module (N, C, H, W) -> (N, D) of your own, which is trained in place.
        init: trained weights to start from, see `moco.Config`; also a `moco.Run`, a `moco.Pretrained`, or a trained
            module (N, C, H, W) -> (N, D) of your own, which is trained in place.
        transform: your own pair of views instead of the recipe's: a callable from a PIL image to two float tensors
            (C, H, W), or a pair of callables that make one each; PyTorch's, NumPy's and Python's generators are seeded
            for each sample.
        callbacks: objects with some of the moments of `moco.Callback`.
        loggers: names (tensorboard, csv, wandb, mlflow, trackio) or loggers of Lightning; None means tensorboard.
        options: fields of `moco.Config` that differ from the recipe's.

    Raises:
        ConfigError, DataError, ArchitectureError: bad input; nothing has been written.
        RunError: the folder cannot be used, or the training failed; the last good checkpoint is kept.
    """
    from moco.training.run_folder import RunFolder

    start = time.perf_counter()
    check_path("out", out)
    given, module = _given(dict(options), backbone, own_views=transform is not None)
    config = _checked(config, given, module, recipe, resume)
    fits = config is None and not resume and is_fitted(data, recipe)
    check_ignored(budget, dry_run, changed_images, fits=fits, recipe=recipe, resume=resume)
    earlier = None
    if resume:
        module = resumed_module(init, given, module)
        stored = stored_run(data, out, recipe, given, changed_images=changed_images)
        folder, data, config, earlier = stored.folder, stored.data, stored.config, stored.earlier
        check_resumed(stored, given, transform, allow_factory=allow_factory)
        if stored.finished:
            say_finished(stored, quiet=quiet)
            return Run(folder.path, module, allow_factory)
        starting = None if module or folder.any_checkpoint else _starting(None, {}, None, config)[0]
    else:
        starting, module = _starting(init, given, module, config)
        config = _configured(config, recipe or ("auto" if fits else default_recipe(data)), given, starting)
        folder = RunFolder(Path(out) if out is not None else _free_folder(data, config.recipe))
    if is_first_process():
        folder.check(resume=resume)
    quiet = quiet or not is_first_process()
    extras: Any = {"module": module, "transform": transform, "callbacks": callbacks, "loggers": loggers, "start": start}
    extras |= {"starting": None if starting is None else starting.tensors, "quiet": quiet, "earlier": earlier}
    fitted = _stated(given, starting, config) if fits else None
    carry_out(data, config, folder, fitted, budget, resume=resume, dry_run=dry_run, **extras)
    return Run(folder.path, module, allow_factory=True)


def _given(
    options: dict[str, Any], backbone: str | nn.Module | None, *, own_views: bool
) -> tuple[dict[str, Any], nn.Module | None]:
    """The options as the configuration has them, and the module of the user's that is the backbone."""
    check_stated(options, own_views=own_views)
    if "image_size" in options:
        options["image_size"] = size_of(options["image_size"])
    if backbone is None or isinstance(backbone, str):
        return (options if backbone is None else {**options, "backbone": backbone}), None
    return {**options, "backbone": f"module/{type(backbone).__name__}"}, backbone


def _checked(
    config: Any, given: dict[str, Any], module: nn.Module | None, recipe: str | None, resume: bool
) -> Config | None:
    """A whole configuration of the user's, beside which nothing else may be stated but a module. A launcher's devices
    go into it, or into the options that are `given` instead."""
    if config is None:
        given |= options_of_launcher(given)
        return None
    if not isinstance(config, Config):
        raise ConfigError(f"config is a {type(config).__name__}: expected a moco.Config")
    if resume:
        raise ConfigError("config with resume: a run is resumed with its own, leave config out")
    if module is not None:
        config = dataclasses.replace(config, backbone=given.pop("backbone"))
    if recipe is not None or given:
        raise ConfigError(f"config with {', '.join(['recipe'] * (recipe is not None) + list(given))}: give one of both")
    checked: Config = dataclasses.replace(config, **_of_launcher(config))
    return checked


def _of_launcher(config: Config) -> dict[str, int]:
    several = config.devices * config.num_nodes > 1
    return options_of_launcher({"devices": config.devices, "num_nodes": config.num_nodes} if several else {})


def _starting(
    init: Init | None, given: dict[str, Any], module: nn.Module | None, config: Config | None
) -> tuple[StartingWeights | None, nn.Module | None]:
    """The weights to start from, None where they are random; and the module of the user's that is to be trained."""
    from moco.commands.starting_weights import open_starting_weights

    if config is not None and init is not None:
        raise ConfigError("config with init: state it in the configuration")
    if config is not None and config.init is not None:
        given = {name: value for name, value in dataclasses.asdict(config).items() if value != getattr(Config, name)}
        init = given.pop("init")
    if init is None:
        return None, module
    if module is not None:
        raise ConfigError("init beside a module as backbone: hand the trained module over as init alone")
    starting = open_starting_weights(init, given)
    return starting, starting.module


def _configured(config: Config | None, recipe: str, given: dict[str, Any], starting: StartingWeights | None) -> Config:
    """The configuration, with what the starting weights decide."""
    if starting is None:
        return config or configure(recipe, given)
    if config is not None:
        return starting.suited(dataclasses.replace(config, **starting.options))
    return starting.suited(configure(recipe, starting.options))


def _stated(given: dict[str, Any], starting: StartingWeights | None, config: Config) -> dict[str, Any]:
    """What a fit has to follow: the options, and what starting weights have decided."""
    if starting is None:
        return given
    stated = {**starting.options, "batchnorm": config.batchnorm, "frozen_layers": config.frozen_layers}
    if starting.any_size and "image_size" not in given:
        del stated["image_size"]
    return stated


def _free_folder(data: Any, recipe: str) -> Path:
    name = "picturebook" if data is None else "images"
    if isinstance(data, str | os.PathLike):
        name = re.sub(r"[^\w.-]+", "-", Path(data).resolve().stem) or name
    for number in range(1, 10_000):
        path = Path("runs") / f"{name}-{recipe}-{number}"
        if not path.exists():
            return path
    raise ConfigError("10,000 runs of this name lie in runs/: choose --out")
