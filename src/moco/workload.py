"""What a run learns from and what it is judged by, with the views that its configuration asks for."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from moco.config import Config
from moco.data.labels import read_labels
from moco.data.source import Source, open_source
from moco.data.split import hold_out
from moco.data.views import NORMALIZATIONS, ViewRecipe
from moco.errors import ConfigError, DataError

MAX_HELD_OUT = 10_000


@dataclasses.dataclass(frozen=True)
class Workload:
    """Images and indices into them.

    Attributes:
        data: as the user gave it, "array" for an array, None for the embedded set; the stored configuration has it.
        source: the images to learn from.
        pretraining: indices of those that are learnt from.
        test: where the held-out images are (the source itself, or another); None without labels.
        held_out: indices of the held-out images in `test`.
    """

    data: str | None
    source: Source
    pretraining: np.ndarray
    test: Source | None
    held_out: np.ndarray | None


def open_workload(data: Any, config: Config) -> Workload:
    """Open the images, attach labels, keep a part out for the monitor.

    Raises:
        DataError: images or labels that cannot be used.
        ConfigError: a batch larger than the number of images.
    """
    source, own_test = open_source(data, data_root=config.data_root)
    if config.labels is not None:
        source = with_labels(source, config.labels)
    test, held_out, pretraining = own_test, None, np.arange(len(source))
    if config.test is not None:
        test, _ = open_source(config.test, data_root=config.data_root)
        if test.labels is None or source.labels is None:
            raise DataError(
                f"{config.test} or {source.name} has no labels: the kNN monitor needs class folders in both"
            )
        test = same_classes(source, test)
    if source.labels is None or config.knn_evaluations == 0:
        test = None
    elif test is not None:
        held_out = np.arange(len(test))[:MAX_HELD_OUT]
    elif config.held_out > 0:
        test = source
        pretraining, held_out = hold_out(source, fraction=config.held_out, seed=config.seed, maximum=MAX_HELD_OUT)
    if len(pretraining) < config.batch_size:
        raise ConfigError(
            f"batch_size={config.batch_size} with {len(pretraining)} images to learn from: "
            "lower --batch-size or give more images"
        )
    name = os.fspath(data) if isinstance(data, str | os.PathLike) else None if data is None else "array"
    return Workload(name, source, pretraining, test, held_out)


def with_labels(source: Source, path: str) -> Source:
    """The source with the labels of a CSV file."""
    labels, class_names = read_labels(path, source)
    return source.with_labels(labels, class_names)


def same_classes(source: Source, test: Source) -> Source:
    """The test source with its labels renumbered to the training classes.

    Raises:
        DataError: a class that does not occur among the training images.
    """
    if source.class_names == test.class_names or not (source.class_names and test.class_names):
        return test
    unknown = sorted(set(test.class_names) - set(source.class_names))
    if unknown:
        raise DataError(
            f"{test.name} has classes that {source.name} has not ({', '.join(unknown[:3])}): "
            "name them alike, add train images of them, or leave those test images out"
        )
    number = np.array([source.class_names.index(name) for name in test.class_names])
    assert test.labels is not None
    return test.with_labels(np.where(test.labels >= 0, number[test.labels], -1), source.class_names)


def view_recipe(config: Config) -> ViewRecipe:
    """The views' part of the configuration."""
    mean, std = NORMALIZATIONS[config.normalization]
    return ViewRecipe(
        crop_scale=(config.crop_min, 1.0),
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
        jitter_probability=config.jitter_probability,
        grayscale_probability=config.grayscale_probability,
        grayscale_first=config.grayscale_first,
        blur_probability=config.blur_probability,
        blur_probability_2=config.blur_probability_2,
        solarize_probability=config.solarize_probability,
        solarize_probability_2=config.solarize_probability_2,
        flip_probability=config.flip_probability,
        color=config.color,
        mean=mean,
        std=std,
    )
