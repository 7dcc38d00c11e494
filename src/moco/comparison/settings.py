"""What is to be measured and how: one frozen object, checked at construction. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

from moco.config import Config
from moco.errors import ConfigError

Protocol = Literal["knn", "linear", "finetune", "scores"]
Probe = Literal["fast", "paper", "both"]
Search = Literal["blocks", "faiss"]
Baselines = Literal["auto", "all", "random", "none"]
PROBE_EPOCHS, PROBE_RATE = 100, 30.0  # the papers' linear probe (1911.05722, section 4.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `moco.evaluate`, which explains each of them.

    Raises:
        ConfigError: a value that cannot work; what came, what was expected.
    """

    protocol: Protocol = "knn"
    train: Any = None
    test: Any = None
    labels: Any = None
    held_out: float = 0.2
    num_neighbors: int = Config.num_neighbors
    knn_temperature: float = Config.knn_temperature
    search: Search = "blocks"
    probe: Probe = "fast"
    probe_epochs: int = PROBE_EPOCHS
    learning_rates: Sequence[float] = (PROBE_RATE,)
    label_fractions: Sequence[float] = (0.01, 0.1, 1.0)
    epochs: int | None = None
    baselines: Baselines = "auto"
    scratch_minutes: float = 10.0
    download: bool = False
    image_size: int | None = None
    seed: int = 0
    seeds: int = 1
    device: str = "auto"
    allow_factory: bool = False
    data_root: Any = None
    quiet: bool = False

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in get_args(choices):
                raise ConfigError(f"{field}={getattr(self, field)!r}: choose one of {', '.join(get_args(choices))}")
        for field, minimum in _AT_LEAST.items():
            value = getattr(self, field)
            if value is not None and value < minimum:
                raise ConfigError(f"{field}={value}: need at least {minimum}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out}: need a share above 0 and below 1")
        if not self.knn_temperature > 0:
            raise ConfigError(f"knn_temperature={self.knn_temperature}: need a value above 0, such as 0.07")
        if not self.learning_rates or not all(rate > 0 for rate in self.learning_rates):
            raise ConfigError(f"learning_rates={list(self.learning_rates)}: need at least one, each above 0")
        if not self.label_fractions or not all(0 < share <= 1 for share in self.label_fractions):
            raise ConfigError(f"label_fractions={list(self.label_fractions)}: need shares above 0, at most 1")

    @property
    def all_seeds(self) -> range:
        """The seeds, one after the other."""
        return range(self.seed, self.seed + self.seeds)


_CHOICES = {"protocol": Protocol, "probe": Probe, "search": Search, "baselines": Baselines}
_AT_LEAST = {
    "num_neighbors": 1,
    "probe_epochs": 1,
    "epochs": 1,
    "scratch_minutes": 0,
    "image_size": 8,
    "seed": 0,
    "seeds": 1,
}
