"""The images that a network is judged on: which are learnt from, which are asked, and which classes they have."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.data.base import Source
from moco.data.folder import FolderSource
from moco.data.labels import is_multilabel, read_multilabels, same_classes, unmatched_paths, with_labels
from moco.data.leakage import shared_images
from moco.data.skipped import SkippedFiles, damaged_were
from moco.data.source import open_source
from moco.data.split import hold_out
from moco.errors import ConfigError, DataError
from moco.evaluation.images import LabelledImages, watch
from moco.evaluation.settings import Settings
from moco.sizes import Size

_NAMED = 3  # examples in a message
Sources = tuple[Source, Source | None]  # train and test images; None: a part of the train images is held out


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt from and what is asked.

    Attributes:
        train, test: the images.
        class_names: names of the classes.
        held_out: whether the test images are a part of the train data that was kept out.
        leaked: names of test and train image, for test images that are among the train images.
        skipped: damaged files.
        notes: what the reader should know.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    held_out: bool
    leaked: list[tuple[str, str]]
    skipped: SkippedFiles
    notes: tuple[str, ...]

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.test.targets.ndim == 2


def open_sources(settings: Settings) -> Sources:
    """The images that the settings name."""
    train, own_test = open_source(settings.train, data_root=settings.data_root)
    if settings.test is None:
        return train, own_test
    return train, open_source(settings.test, data_root=settings.data_root)[0]


def make_task(sources: Sources, settings: Settings, *, image_size: Size, resize: bool = True) -> Task:
    """Attach labels, divide, read the images, and look for what would make the figures worthless.

    `image_size`, `resize`: as of `moco.Preprocessing`.

    Raises:
        ConfigError: a share to hold out where there are test images.
        DataError: no labels, labels for missing images, a class that only one side has, one class only, an empty class
            folder, test images that are all among the train images, or nothing that can be read.
    """
    if sources[1] is not None and settings.held_out != Settings.held_out:
        raise ConfigError(
            f"held_out={settings.held_out} would change nothing: {sources[0].name} has test images of its own; "
            "leave it out"
        )
    train_source, test_source, targets, class_names = _labelled(sources, settings)
    known = [np.flatnonzero(~np.isnan(t[:, 0]) if t.ndim == 2 else t >= 0) for t in targets]
    total = sum(map(len, targets))
    notes = [f"{left} images without a label are left out"] if (left := total - sum(map(len, known))) else []
    if test_source is None:
        train_at, test_at = _divide(train_source, targets[0], known[0], settings)
    else:
        train_at, test_at = known
    skipped = SkippedFiles()
    read = functools.partial(_read, size=image_size, resize=resize, skipped=skipped, quiet=settings.quiet)
    train = read(train_source, train_at, targets[0], "train images")
    test = read(test_source or train_source, test_at, targets[-1], "test images")
    notes += _check_classes(train.targets, test.targets, class_names)
    leaked = shared_images(train.source, test.source)
    if len(leaked) == len(test):
        raise DataError(f"every test image is among the train images too ({leaked[0][0]}): give other images as test")
    notes += _about(leaked, skipped)
    return Task(train, test, class_names, test_source is None, leaked, skipped, tuple(notes))


def _labelled(sources: Sources, settings: Settings) -> tuple[Source, Source | None, list[np.ndarray], tuple[str, ...]]:
    """The sources, the targets of all images of each (NaN rows and -1 where unknown), and the classes."""
    train, test = sources
    path = settings.labels
    given = [source for source in sources if source is not None]
    if path is not None:
        missing = unmatched_paths(path, given)
        if missing and len(missing) < len(unmatched_paths(path, ())):
            raise DataError(
                f"{path}: {len(missing)} of its paths are no image of {' or '.join(source.name for source in given)} "
                f"({', '.join(missing[:_NAMED])}): correct or remove those rows"
            )
        if is_multilabel(path):
            targets, names = read_multilabels(path, given)
            return train, test, targets, names
        given = [with_labels(source, path) for source in given]
    for source in given:
        if source.labels is None:
            _check_single_folder(source)
            raise DataError(f"{source.name} has no labels: put its images into a folder for each class, or give labels")
        if path is None and not isinstance(settings.train, Source):  # which may be a part of its folder
            _check_folders(source)
    given[1:] = [same_classes(given[0], source) for source in given[1:]]
    labels = [source.labels for source in given if source.labels is not None]
    return given[0], given[1] if len(given) > 1 else None, labels, given[0].class_names


def _divide(
    source: Source, targets: np.ndarray, known: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the labelled images to learn from, and of those held out."""
    source = source.with_labels(None, ()) if targets.ndim == 2 else source
    parts = hold_out(source, fraction=settings.held_out, seed=settings.seed)
    rest, held_out = (np.intersect1d(part, known) for part in parts)
    if not len(held_out) or not len(rest):
        raise DataError(f"{source.name}: {len(known)} labelled images are too few to hold some out; give test")
    return rest, held_out


def _read(
    source: Source,
    indices: np.ndarray,
    targets: np.ndarray,
    what: str,
    *,
    size: Size,
    resize: bool,
    skipped: SkippedFiles,
    quiet: bool,
) -> LabelledImages:
    if not len(indices):
        raise DataError(f"{source.name} has no labelled image to use as one of the {what}")
    show = functools.partial(watch, what=f"reading {what}", quiet=quiet)
    return LabelledImages.read(source, indices, targets, size=size, resize=resize, skipped=skipped, show=show)


def _class_folders(source: Source) -> list[Path]:
    inside = sorted(Path(source.root).iterdir()) if isinstance(source, FolderSource) else []
    return [path for path in inside if path.is_dir() and not path.name.startswith(".")]


def _check_single_folder(source: Source) -> None:
    """Refuse a folder that holds one class folder, for which there is nothing to tell apart."""
    folders = _class_folders(source)
    if len(folders) == 1:
        raise DataError(
            f"{source.name} has one class folder only ({folders[0].name}): give the folder that holds all class "
            "folders, or labels"
        )


def _check_folders(source: Source) -> None:
    """Refuse a class folder without images: a copy that was cut short would go unnoticed."""
    for folder in _class_folders(source):
        if folder.name not in source.class_names:
            raise DataError(f"{folder} holds no images: fill the class folder or remove it")


def _check_classes(train: Tensor, test: Tensor, names: tuple[str, ...]) -> list[str]:
    """Refuse classes that cannot be learnt; name those that are not asked for."""
    learnt, asked = (_counts(targets, len(names)) for targets in (train, test))
    present = [name for name, count in zip(names, learnt, strict=True) if count]
    if len(present) < (1 if train.ndim == 2 else 2):
        raise DataError(f"the train images are all of one class ({', '.join(present)}): need at least two classes")
    unseen = [name for name, here, there in zip(names, learnt, asked, strict=True) if there and not here]
    if unseen:
        raise DataError(
            f"no train image of {len(unseen)} class(es) that the test images have ({', '.join(unseen[:_NAMED])}): "
            "add some, or leave those test images out"
        )
    absent = [name for name, count in zip(names, asked, strict=True) if not count]
    return [f"no test image of {len(absent)} class(es): {', '.join(absent[:_NAMED])}"] if absent else []


def _counts(targets: Tensor, classes: int) -> list[int]:
    counts = targets.sum(dim=0).long() if targets.ndim == 2 else torch.bincount(targets, minlength=classes)
    return counts.tolist()


def _about(leaked: list[tuple[str, str]], skipped: SkippedFiles) -> Iterator[str]:
    if leaked:
        named = ", ".join(f"{test} = {train}" for test, train in leaked[:_NAMED])
        yield f"{len(leaked)} of the test images are among the train images, byte for byte: {named}"
    if skipped.count:
        item, reason = skipped.items()[0]
        yield f"{damaged_were(skipped.count)} left out, the first {item}: {reason}"
