"""torchvision's data sets by name, downloaded because the user named one."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moco.data.base import Source
from moco.data.user_data import wrap_dataset
from moco.errors import DataError

DEFAULT_ROOT = "~/.cache/moco"


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How torchvision builds the two parts of a data set.

    Attributes:
        train: arguments of the part to learn from.
        test: arguments of the part to test on; None where there is none.
        downloads: torchvision can fetch it.
    """

    train: Mapping[str, Any]
    test: Mapping[str, Any] | None
    downloads: bool = True


_BY_FLAG = _Recipe({"train": True}, {"train": False})
_BY_SPLIT = _Recipe({"split": "train"}, {"split": "test"})
_WHOLE = _Recipe({}, None)
# Classification sets of torchvision 0.26 to 0.29 whose items are (image, class).
NAMED: Mapping[str, _Recipe] = {
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "FashionMNIST": _BY_FLAG,
    "KMNIST": _BY_FLAG,
    "USPS": _BY_FLAG,
    "EMNIST": _Recipe({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    "STL10": _Recipe({"split": "train+unlabeled"}, {"split": "test"}),
    "SVHN": _BY_SPLIT,
    "GTSRB": _BY_SPLIT,
    "DTD": _BY_SPLIT,
    "Food101": _BY_SPLIT,
    "Country211": _BY_SPLIT,
    "PCAM": _BY_SPLIT,
    "RenderedSST2": _BY_SPLIT,
    "Flowers102": _BY_SPLIT,
    "FGVCAircraft": _Recipe({"split": "trainval"}, {"split": "test"}),
    "OxfordIIITPet": _Recipe({"split": "trainval"}, {"split": "test"}),
    "Imagenette": _Recipe({"split": "train"}, {"split": "val"}),
    "ImageNet": _Recipe({"split": "train"}, {"split": "val"}, downloads=False),
    "Places365": _Recipe({"split": "train-standard", "small": True}, {"split": "val", "small": True}),
    "FER2013": _Recipe({"split": "train"}, None, downloads=False),  # its test part has no labels
    "StanfordCars": _Recipe({"split": "train"}, {"split": "test"}, downloads=False),  # its source is gone
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "EuroSAT": _WHOLE,
    "SEMEION": _WHOLE,
    "SUN397": _WHOLE,
}


def find_named(text: str) -> str | None:
    """The data set that this text names, whatever its case; None if there is none."""
    return {name.lower(): name for name in NAMED}.get(text.lower())


def nearest_named(text: str) -> list[str]:
    """Names of data sets that look like this text, best first, at most 3."""
    by_lower = {name.lower(): name for name in NAMED}
    return [by_lower[match] for match in difflib.get_close_matches(text.lower(), by_lower, n=3, cutoff=0.6)]


def open_named(text: str, *, data_root: str | Path | None = None) -> tuple[Source, Source | None]:
    """The training part and, if there is one, the test part of a torchvision data set; fetched if not there yet.

    Args:
        text: the data set's class name, in any case.
        data_root: where data sets are stored; None means ~/.cache/moco.

    Raises:
        DataError: no such data set (the nearest names are given), or it can be neither found nor fetched.
    """
    name = find_named(text)
    if name is None:
        near = ", ".join(nearest_named(text)) or ", ".join(sorted(NAMED))
        raise DataError(f"{text!r}: no such data set; nearest names: {near}")
    recipe = NAMED[name]
    root = Path(data_root or DEFAULT_ROOT).expanduser()
    train = _open_part(name, recipe.train, root, downloads=recipe.downloads)
    if recipe.test is None:
        return train, None
    return train, _open_part(name, recipe.test, root, downloads=recipe.downloads)


def _open_part(name: str, arguments: Mapping[str, Any], root: Path, *, downloads: bool) -> Source:
    import torchvision

    fetch = {"download": True} if downloads else {}
    try:
        root.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():  # old pickles inside the archives trip over new NumPy versions
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            dataset = getattr(torchvision.datasets, name)(root, **arguments, **fetch)
    except (OSError, RuntimeError, ValueError, ImportError, EOFError) as error:
        reason = " ".join(str(error).split())
        cure = "check the network" if downloads else "torchvision cannot fetch it, put it there by hand"
        raise DataError(f"{name}: not usable in {root} ({reason}); {cure}, or give a folder of images") from error
    return wrap_dataset(dataset, name=name)
