"""`init`: the trained weights that a run starts from, and what they decide of its configuration."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from moco.config import Config
from moco.contrast.batchnorm import has_batchnorm
from moco.data.bands import RGB
from moco.encoder.stem import STANDARD
from moco.errors import ConfigError
from moco.export.load import Pretrained
from moco.export.trained import in_channels, trained_backbone
from moco.normalization import AUTO, normalization_text
from moco.recipes import CONTINUED, CONTINUED_WARMUP
from moco.sizes import Size, size_text

if TYPE_CHECKING:
    from moco.export.load import HasPath

    Init = str | os.PathLike[str] | HasPath | nn.Module
MODULE = "module"  # what config.yaml calls a module that was handed over


@dataclasses.dataclass(frozen=True)
class StartingWeights:
    """What to start from.

    Attributes:
        options: those of the run that follow from the weights, and those that were given.
        tensors: of the backbone, by name; None for a module of the user's, which has them.
        module: the user's own backbone, where it was handed over; it trains in place.
        batchnorm: whether there are layers with statistics of their own.
        any_size: whether images of another size than the weights' own will do.
    """

    options: dict[str, Any]
    tensors: dict[str, Tensor] | None
    module: nn.Module | None
    batchnorm: bool
    any_size: bool

    def suited(self, config: Config) -> Config:
        """The configuration with what trained weights need, where nothing else is stated.

        BatchNorm keeps its trained statistics: those of the batch spoil the features (docs/log.md). MoCo v3's heads
        need the batch's.
        """
        changes: dict[str, Any] = {}
        if config.mechanism == "moco-v3":
            return config
        if self.batchnorm and config.batchnorm == "auto":
            changes["batchnorm"] = "frozen"
        if config.optimizer == "sgd":
            changes |= {name: value for name, value in CONTINUED.items() if name not in self.options}
        for name, steps in CONTINUED_WARMUP.items():
            if name == "head_warmup_steps" and config.head == "none":
                continue
            if name not in self.options and not config.warmup_epochs:
                changes[name] = steps if config.steps is None else min(steps, config.steps // 5)
        return dataclasses.replace(config, **changes)


def own_module(init: Init) -> bool:
    """Whether it is a module of the user's, which is trained itself."""
    return isinstance(init, nn.Module) and not isinstance(init, Pretrained)


def label(init: Init) -> str:
    """What config.yaml calls the weights."""
    if isinstance(init, nn.Module):
        return MODULE
    return os.fspath(init if isinstance(init, str | os.PathLike) else init.path)


def open_starting_weights(init: Init, given: dict[str, Any]) -> StartingWeights:
    """Read the weights; architecture, channels, image size and normalisation are theirs where `given` states none.

    Stated channels are inherited, and the normalisation is then that of the images.

    Raises:
        ConfigError: an option that contradicts the weights.
        RunError, ArchitectureError: weights that cannot be read or are of another architecture.
    """
    if init == MODULE and not os.path.exists(MODULE):
        raise ConfigError("init='module' is a module that was handed over: hand it over again, as init")
    own = own_module(init)
    named = given.get("backbone")
    if own and named is not None:
        raise ConfigError(f"backbone={named!r} beside init, which is the module to train: leave backbone out")
    wanted = given.get("channels")
    before = trained_backbone(init, architecture=named, image_size=given.get("image_size"), channels=wanted)
    model = in_channels(before, wanted)
    theirs: dict[str, Any] = {"backbone": model.architecture, "stem": model.stem, "num_heads": model.num_heads}
    theirs["channels"] = model.channels
    for name, value in theirs.items():
        stated = given.get(name)
        if stated not in (None, "auto", value) and str(value).rpartition("/")[2] != stated:
            raise ConfigError(f"{name}={stated!r} with init={init}, whose {name} is {value}: leave {name} out")
    preprocess, backbone = model.preprocess, model.backbone
    unknown = model is not before or (model.channels != RGB and (own or ":" in model.architecture))
    suggested = {
        "image_size": preprocess.size,
        "normalization": AUTO if unknown else normalization_text(preprocess.mean, preprocess.std),
    }
    tensors = None if own else {name: value.detach().clone() for name, value in backbone.state_dict().items()}
    options = {**suggested, **given, **theirs, "init": label(init)}
    any_size = _takes_any_size(model, options["image_size"], f"init={init}")
    return StartingWeights(options, tensors, backbone if own else None, has_batchnorm(backbone), any_size)


def _takes_any_size(model: Pretrained, size: Size, what: str) -> bool:
    """Whether images of another size than the weights' own will do; the size chosen is checked."""
    placed = any("pos_emb" in name for name, _ in model.backbone.named_parameters())
    own = model.image_size
    if placed and size != own and isinstance(size, tuple) | isinstance(own, tuple):
        raise ConfigError(  # another grid of as many positions would fit without a word
            f"image_size={size_text(size)} with {what}, whose positions are for images of {size_text(own)} px: leave "
            "image_size out"
        )
    return model.stem == STANDARD and not placed
