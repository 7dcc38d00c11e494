"""What is to be measured and how: one frozen object, checked at construction. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from moco.errors import ConfigError
from moco.fields import LARGEST, LARGEST_REAL, LARGEST_SEED, LARGEST_SIDE, check_number
from moco.sizes import StatedSize, height_width, size_of

Protocol = Literal["knn", "linear", "finetune", "scores"]
Probe = Literal["fast", "paper", "both"]
Search = Literal["blocks", "faiss"]
Baselines = Literal["auto", "all", "random", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `moco.evaluate`, which says what they mean, and their defaults.

    Raises:
        ConfigError: a value that cannot work, or one that would change nothing beside the others.
    """

    protocol: Protocol = "knn"
    train: Any = None
    test: Any = None
    labels: str | None = None
    held_out: float = 0.2
    num_neighbors: int = 20
    knn_temperature: float = 0.07
    search: Search = "blocks"
    probe: Probe = "fast"
    probe_epochs: int = 100  # of the papers' linear probe, with its learning rate (1911.05722, section 4.1)
    learning_rates: Sequence[float] = (30.0,)
    label_fractions: Sequence[float] = (0.01, 0.1, 1.0)
    epochs: int | None = None
    baselines: Baselines = "auto"
    download: bool = False
    image_size: StatedSize | None = None
    seed: int = 0
    seeds: int = 1
    device: str = "auto"
    allow_factory: bool = False
    data_root: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in get_args(choices):
                raise ConfigError(f"{field}={getattr(self, field)!r}: choose one of {', '.join(get_args(choices))}")
        for field, limits in _LIMITS.items():
            check_number(field, getattr(self, field), *limits)
        if self.image_size is not None:
            object.__setattr__(self, "image_size", size := size_of(self.image_size))
            for side in height_width(size):
                check_number("image_size", side, 8, LARGEST_SIDE)
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out}: need a share above 0 and below 1")
        if not 0 < self.knn_temperature <= LARGEST_REAL:
            raise ConfigError(f"knn_temperature={self.knn_temperature}: need a value above 0, such as 0.07")
        if not self.learning_rates or not all(0 < rate <= LARGEST_REAL for rate in self.learning_rates):
            raise ConfigError(f"learning_rates={list(self.learning_rates)}: need at least one, each above 0")
        if not self.label_fractions or not all(0 < share <= 1 for share in self.label_fractions):
            raise ConfigError(f"label_fractions={list(self.label_fractions)}: need shares above 0, at most 1")
        for field in ("learning_rates", "label_fractions"):
            if len(set(getattr(self, field))) < len(getattr(self, field)):
                raise ConfigError(f"{field}={list(getattr(self, field))}: a value stands there twice, drop one")
        self._check_needless()

    def _check_needless(self) -> None:
        """Refuse options that are stated and belong to another protocol or baseline."""
        for fields, (counts, where) in _COUNTS.items():
            for field in fields.split():
                value, default = _plain(getattr(self, field)), _plain(getattr(Settings, field))
                if value != default and not counts(self):
                    raise ConfigError(f"{field}={value} would change nothing: it counts {where}; leave it out")

    @property
    def all_seeds(self) -> range:
        """The seeds, one after the other."""
        return range(self.seed, self.seed + self.seeds)

    def stated(self) -> dict[str, Any]:
        """The options that the figures depend on, as plain data."""
        names = ("protocol", *_DECIDING[self.protocol], "baselines", "epochs", "seed", "seeds")
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


_CHOICES = {"protocol": Protocol, "probe": Probe, "search": Search, "baselines": Baselines}
_LIMITS = {"num_neighbors": (1, LARGEST), "probe_epochs": (1, 100_000), "epochs": (1, 100_000)}
_LIMITS |= {"seed": (0, LARGEST_SEED - 1000), "seeds": (1, 1000)}
_DECIDING: dict[str, tuple[str, ...]] = {
    "knn": ("num_neighbors", "knn_temperature", "search"),
    "linear": ("probe", "probe_epochs", "learning_rates"),
    "finetune": ("label_fractions",),
    "scores": (),
}
# Options that count beside some values of the others only: when, and in words.
_COUNTS: dict[str, tuple[Callable[[Settings], bool], str]] = {
    "num_neighbors knn_temperature search": (lambda s: s.protocol == "knn", "with protocol knn"),
    "probe": (lambda s: s.protocol == "linear", "with protocol linear"),
    "probe_epochs learning_rates": (
        lambda s: s.protocol == "linear" and s.probe != "fast",
        "with protocol linear and probe paper or both",
    ),
    "label_fractions": (lambda s: s.protocol == "finetune", "with protocol finetune"),
    "epochs": (
        lambda s: s.protocol == "finetune" or (s.protocol != "scores" and s.baselines == "all"),
        "with protocol finetune, or with baselines all beside knn and linear",
    ),
    "download": (lambda s: s.baselines in ("auto", "all"), "with baselines auto or all"),
    "labels": (lambda s: s.protocol != "scores", "with protocols that use labels"),
    "held_out": (lambda s: s.protocol != "scores" and s.test is None, "without test images"),
}
