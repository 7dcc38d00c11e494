"""What is to be measured and how: one frozen object, checked at construction. Loads without PyTorch."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
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
    """The options of `moco.evaluate` and `moco evaluate`.

    Args:
        protocol: knn, linear, finetune, or scores (which needs no labels).
        train: images to learn from: a folder of class folders, a .npz file, the name of a torchvision data set
            (downloaded), or nothing for the picture book; in Python also an array or a source.
        test: images to be asked, likewise; without it the data's own test part, else a part of the train images.
        labels: CSV file path,label, for train and test images; with a column labels (a|b) an image may have several.
        held_out: share of the train images that is asked where there are no test images.
        num_neighbors: k of kNN.
        knn_temperature: kNN votes are weighted by exp(similarity / knn_temperature).
        search: how kNN searches: blocks, or faiss (pip install faiss-cpu) for very many images.
        probe: fast (logistic regression on features), paper (SGD over random crops) or both.
        probe_epochs: epochs of the paper's probe.
        learning_rates: of the paper's probe; the best of several is chosen on a fifth of the train images.
        label_fractions: shares of the labels to fine-tune on, with the same number of images in every class.
        epochs: of fine-tuning and of training from scratch; by default 20, more where that is under 300 steps.
        baselines: auto (random weights, from scratch if it is quick, ImageNet weights if on the disk), all (from
            scratch at any cost), random or none.
        scratch_minutes: the longest that auto trains from scratch, over all seeds.
        download: whether ImageNet weights may be fetched.
        image_size: side of the images in pixels; by default the run's.
        seed: every random draw follows from it.
        seeds: how many seeds, from seed on, for all that is drawn.
        device: auto, cpu, cuda, ...
        allow_factory: whether weights may name a function of yours that builds their network.
        data_root: where named data sets are stored; null means ~/.cache/moco.
        quiet: no progress bars.

    Raises:
        ConfigError: a value that cannot work, or one that would change nothing beside the others.
    """

    protocol: Protocol = "knn"
    train: str | Any = None
    test: str | Any = None
    labels: str | None = None
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
    data_root: str | None = None
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
        for field, (counts, where) in _COUNTS.items():
            value, default = _plain(getattr(self, field)), _plain(getattr(Settings, field))
            if value != default and not counts(self):
                raise ConfigError(f"{field}={value} would change nothing: it counts {where}; leave it out")

    @property
    def trains_from_scratch(self) -> bool:
        """Whether training from scratch may be among the baselines."""
        return self.protocol != "scores" and self.baselines in ("auto", "all")

    @property
    def all_seeds(self) -> range:
        """The seeds, one after the other."""
        return range(self.seed, self.seed + self.seeds)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def check_names(options: Mapping[str, Any]) -> None:
    """Refuse what is no option.

    Raises:
        ConfigError: an unknown name; the nearest ones are suggested.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ConfigError(f"unknown option {name!r}" + (f": did you mean {', '.join(near)}?" if near else ""))


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
# Options that count beside some values of the others only: when, and in words.
_COUNTS: dict[str, tuple[Callable[[Settings], bool], str]] = {
    **dict.fromkeys(
        ("num_neighbors", "knn_temperature", "search"), (lambda s: s.protocol == "knn", "with protocol knn")
    ),
    "probe": (lambda s: s.protocol == "linear", "with protocol linear"),
    **dict.fromkeys(
        ("probe_epochs", "learning_rates"),
        (lambda s: s.protocol == "linear" and s.probe != "fast", "with protocol linear and probe paper or both"),
    ),
    "label_fractions": (lambda s: s.protocol == "finetune", "with protocol finetune"),
    "epochs": (
        lambda s: s.protocol == "finetune" or s.trains_from_scratch,
        "with protocol finetune, or with baselines auto or all beside knn and linear",
    ),
    "scratch_minutes": (
        lambda s: s.protocol in ("knn", "linear") and s.baselines == "auto",
        "with baselines auto beside knn and linear",
    ),
    "download": (lambda s: s.baselines in ("auto", "all"), "with baselines auto or all"),
    "labels": (lambda s: s.protocol != "scores", "with protocols that use labels"),
    "held_out": (lambda s: s.protocol != "scores" and s.test is None, "without test images"),
}
