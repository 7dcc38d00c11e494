"""The images that a network is judged on: who may be learnt from, who is asked, and which classes they have."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.comparison.progress import watch
from moco.comparison.settings import Settings
from moco.data.cuts import PAPER_SCALE
from moco.data.folder import FolderSource
from moco.data.labels import is_multilabel, unmatched_paths
from moco.data.leakage import shared_images
from moco.data.multilabel import read_multilabels
from moco.data.readable import ReadableImages
from moco.data.skipped import SkippedFiles
from moco.data.source import Source, open_source
from moco.data.split import hold_out
from moco.errors import DataError
from moco.workload import same_classes, with_labels

_NAMED = 3  # examples in a message


@dataclasses.dataclass(frozen=True)
class Part:
    """Images and what they show: (N,) int64 class numbers, or (N, C) float32 of 0 and 1 for several labels."""

    images: ReadableImages
    targets: Tensor

    def subset(self, positions: np.ndarray) -> Part:
        """The images at these positions."""
        return Part(self.images.subset(positions), self.targets[torch.from_numpy(positions)])


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt from and what is asked.

    Attributes:
        train, test: the images.
        class_names: names of the classes; empty without labels.
        held_out: whether the test images are a part of the train data that was kept out.
        leaked: names of test and train image, for test images that are among the train images.
        skipped: damaged files.
        notes: what the reader should know.
    """

    train: Part
    test: Part
    class_names: tuple[str, ...]
    held_out: bool
    leaked: list[tuple[str, str]]
    skipped: SkippedFiles
    notes: tuple[str, ...]

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.test.targets.ndim == 2


@dataclasses.dataclass(frozen=True)
class Sides:
    """The sources, and the targets of all their images: NaN rows and -1 where unknown."""

    train: Source
    test: Source | None
    train_targets: np.ndarray
    test_targets: np.ndarray | None
    class_names: tuple[str, ...]


def open_sources(settings: Settings) -> tuple[Source, Source | None]:
    """Train images and test images (None where a part of the train images is to be held out)."""
    train, own_test = open_source(settings.train, data_root=settings.data_root)
    if settings.test is None:
        return train, own_test
    return train, open_source(settings.test, data_root=settings.data_root)[0]


def make_task(sources: tuple[Source, Source | None], settings: Settings, *, image_size: int) -> Task:
    """Attach labels, divide, read the images, and look for what would make the figures worthless.

    Raises:
        DataError: no labels, labels for missing images, a class that only one side has, one class only, an empty class
            folder, test images that are all among the train images, or nothing that can be read.
    """
    sides = _labelled(*sources, settings)
    train_at, test_at = _divide(sides, settings)
    skipped = SkippedFiles()
    # As many pixels as the smallest random crop needs, for every protocol: so a figure does not depend on the others.
    read = functools.partial(
        _read, min_side=math.ceil(image_size / PAPER_SCALE[0] ** 0.5), skipped=skipped, show=not settings.quiet
    )
    train = read(sides.train, train_at, sides.train_targets, what="train images")
    if sides.test is None:
        test = read(sides.train, test_at, sides.train_targets, what="held-out images")
    else:
        assert sides.test_targets is not None
        test = read(sides.test, test_at, sides.test_targets, what="test images")
    _check_classes(train.targets, test.targets, sides.class_names)
    leaked = shared_images(train.images, test.images)
    if len(leaked) == len(test.images):
        raise DataError(f"every test image is among the train images too ({leaked[0][0]}): give other images as test")
    notes = [*_left_out(sides, train_at, test_at), *_absent(test.targets, sides.class_names)]
    return Task(train, test, sides.class_names, sides.test is None, leaked, skipped, tuple(notes))


def unlabelled_images(source: Source, settings: Settings, *, image_size: int, maximum: int) -> ReadableImages:
    """At most `maximum` images of a source, drawn from the seed; labels are not asked for."""
    order = np.random.default_rng(settings.seed).permutation(len(source))[:maximum]
    min_side = math.ceil(image_size / PAPER_SCALE[0] ** 0.5)
    follow = functools.partial(watch, what="reading images", show=not settings.quiet)
    return ReadableImages(source, np.sort(order), min_side=min_side, skipped=SkippedFiles(), watch=follow)


def _labelled(train: Source, test: Source | None, settings: Settings) -> Sides:
    path = settings.labels
    if path is not None:
        known = [source for source in (train, test) if source is not None]
        missing = unmatched_paths(path, known)
        if missing and len(missing) < len(unmatched_paths(path, ())):
            raise DataError(
                f"{path}: {len(missing)} of its paths are no image of {' or '.join(source.name for source in known)} "
                f"({', '.join(missing[:_NAMED])}): correct or remove those rows"
            )
        if is_multilabel(path):
            targets, names = read_multilabels(path, known)
            return Sides(train, test, targets[0], targets[1] if test is not None else None, names)
        train = with_labels(train, path)
        test = None if test is None else with_labels(test, path)
    for source in (train, test):
        if source is not None and source.labels is None:
            _check_single_folder(source)
            raise DataError(f"{source.name} has no labels: put its images into a folder for each class, or give labels")
        if isinstance(source, FolderSource) and path is None:
            _check_folders(source)
    if test is not None:
        test = same_classes(train, test)
    assert train.labels is not None
    return Sides(train, test, train.labels, None if test is None else test.labels, train.class_names)


def _divide(sides: Sides, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the labelled train and test images."""
    known = _known(sides.train_targets)
    if sides.test is not None:
        assert sides.test_targets is not None
        return np.flatnonzero(known), np.flatnonzero(_known(sides.test_targets))
    source = sides.train.with_labels(None, ()) if sides.train_targets.ndim == 2 else sides.train
    rest, held_out = hold_out(source, fraction=settings.held_out, seed=settings.seed)
    rest, held_out = rest[known[rest]], held_out[known[held_out]]
    if not len(held_out) or not len(rest):
        raise DataError(f"{sides.train.name}: {known.sum()} labelled images are too few to hold some out; give test")
    return rest, held_out


def _known(targets: np.ndarray) -> np.ndarray:
    return ~np.isnan(targets[:, 0]) if targets.ndim == 2 else targets >= 0


def _read(
    source: Source,
    indices: np.ndarray,
    targets: np.ndarray,
    *,
    min_side: int,
    skipped: SkippedFiles,
    show: bool,
    what: str,
) -> Part:
    if not len(indices):
        raise DataError(f"{source.name} has no labelled image to use as one of the {what}")
    follow: Callable[..., Any] = functools.partial(watch, what=f"reading {what}", show=show)
    images = ReadableImages(source, indices, min_side=min_side, skipped=skipped, watch=follow)
    return Part(images, torch.from_numpy(targets[images.indices].copy()))


def _check_single_folder(source: Source) -> None:
    """Refuse a folder that holds one class folder, for which there is nothing to tell apart."""
    inside = sorted(Path(source.root).iterdir()) if isinstance(source, FolderSource) else []
    folders = [path.name for path in inside if path.is_dir() and not path.name.startswith(".")]
    if len(folders) == 1:
        raise DataError(
            f"{source.name} has one class folder only ({folders[0]}): give the folder that holds all class folders, or "
            "labels"
        )


def _check_folders(source: FolderSource) -> None:
    """Refuse a class folder without images: a copy that was cut short would go unnoticed."""
    for folder in sorted(Path(source.root).iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in source.class_names:
            raise DataError(f"{folder} holds no images: fill the class folder or remove it")


def _check_classes(train: Tensor, test: Tensor, names: tuple[str, ...]) -> None:
    counts = _counts(train, len(names))
    present = [name for name, count in zip(names, counts.tolist(), strict=True) if count]
    if len(present) < (1 if train.ndim == 2 else 2):
        raise DataError(f"the train images are all of one class ({', '.join(present)}): need at least two classes")
    asked = _counts(test, len(names))
    absent = [name for name, count, other in zip(names, counts, asked, strict=True) if other and not count]
    if absent:
        raise DataError(
            f"no train image of {len(absent)} class(es) that the test images have ({', '.join(absent[:_NAMED])}): "
            "add some, or leave those test images out"
        )


def _counts(targets: Tensor, classes: int) -> Tensor:
    return targets.sum(dim=0).long() if targets.ndim == 2 else torch.bincount(targets, minlength=classes)


def _left_out(sides: Sides, train_at: np.ndarray, test_at: np.ndarray) -> list[str]:
    total = len(sides.train) + (0 if sides.test is None else len(sides.test))
    unknown = total - len(train_at) - len(test_at)
    return [f"{unknown} images without a label are left out"] if unknown else []


def _absent(test: Tensor, names: tuple[str, ...]) -> list[str]:
    absent = [name for name, count in zip(names, _counts(test, len(names)), strict=True) if not count]
    return [f"no test image of {len(absent)} class(es): {', '.join(absent[:_NAMED])}"] if absent else []
