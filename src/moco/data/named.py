"""torchvision's data sets by name, downloaded because the user named one."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from moco.data.base import Source
from moco.data.user_data import wrap_dataset
from moco.errors import DataError

DEFAULT_ROOT = "~/.cache/moco"
Parts = tuple[dict[str, Any], dict[str, Any] | None]  # arguments of the part to learn from and of that to test on

_BY_FLAG: Parts = ({"train": True}, {"train": False})
_BY_SPLIT: Parts = ({"split": "train"}, {"split": "test"})
_WHOLE: Parts = ({}, None)
# Classification sets of torchvision 0.26 to 0.29 whose items are (image, class).
NAMED: dict[str, Parts] = {
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "FashionMNIST": _BY_FLAG,
    "KMNIST": _BY_FLAG,
    "USPS": _BY_FLAG,
    "EMNIST": ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    "STL10": ({"split": "train+unlabeled"}, {"split": "test"}),
    "SVHN": _BY_SPLIT,
    "GTSRB": _BY_SPLIT,
    "DTD": _BY_SPLIT,
    "Food101": _BY_SPLIT,
    "Country211": _BY_SPLIT,
    "PCAM": _BY_SPLIT,
    "RenderedSST2": _BY_SPLIT,
    "Flowers102": _BY_SPLIT,
    "FGVCAircraft": ({"split": "trainval"}, {"split": "test"}),
    "OxfordIIITPet": ({"split": "trainval"}, {"split": "test"}),
    "Imagenette": ({"split": "train"}, {"split": "val"}),
    "ImageNet": ({"split": "train"}, {"split": "val"}),
    "Places365": ({"split": "train-standard", "small": True}, {"split": "val", "small": True}),
    "FER2013": ({"split": "train"}, None),  # its test part has no labels
    "StanfordCars": ({"split": "train"}, {"split": "test"}),
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
    "EuroSAT": _WHOLE,
    "SEMEION": _WHOLE,
    "SUN397": _WHOLE,
}
BY_HAND = ("ImageNet", "FER2013", "StanfordCars")  # torchvision cannot fetch them
_BY_LOWER = {name.lower(): name for name in NAMED}


def find_named(text: str) -> str | None:
    """The data set that this text names, whatever its case; None if there is none."""
    return _BY_LOWER.get(text.lower())


def nearest_named(text: str) -> list[str]:
    """Names of data sets that look like this text, best first, at most 3."""
    return [_BY_LOWER[match] for match in difflib.get_close_matches(text.lower(), _BY_LOWER, n=3, cutoff=0.6)]


def open_named(name: str, *, data_root: str | Path | None = None) -> tuple[Source, Source | None]:
    """The training part and, if there is one, the test part of a torchvision data set; fetched if not there yet.

    Args:
        name: one of NAMED.
        data_root: where data sets are stored; None means ~/.cache/moco.

    Raises:
        DataError: it can be neither found nor fetched.
    """
    root = Path(data_root or DEFAULT_ROOT).expanduser()
    train, test = NAMED[name]
    return _open_part(name, train, root), None if test is None else _open_part(name, test, root)


def _open_part(name: str, arguments: dict[str, Any], root: Path) -> Source:
    import torchvision

    fetch = {} if name in BY_HAND else {"download": True}
    try:
        root.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():  # old pickles inside the archives trip over new NumPy versions
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            dataset = getattr(torchvision.datasets, name)(root, **arguments, **fetch)
    except (OSError, RuntimeError, ValueError, ImportError, EOFError) as error:
        reason = " ".join(str(error).split())
        cure = "check the network" if fetch else "torchvision cannot fetch it, put it there by hand"
        raise DataError(f"{name}: not usable in {root} ({reason}); {cure}, or give a folder of images") from error
    return wrap_dataset(dataset, name=name)
