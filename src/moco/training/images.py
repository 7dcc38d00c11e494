"""The images of a run: those that it learns from and those that its monitor asks about."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from moco.config import Config
from moco.data.bands import RGB, count_of
from moco.data.base import Source
from moco.data.channel_statistics import channel_statistics
from moco.data.folder import FolderSource
from moco.data.labels import same_classes, with_labels
from moco.data.patterns import check_patterns, matching
from moco.data.source import open_source
from moco.data.split import hold_out
from moco.errors import ConfigError, DataError
from moco.normalization import AUTO, normalization_text, normalization_values
from moco.recipes import RECIPES

MAX_HELD_OUT = 10_000


@dataclasses.dataclass(frozen=True)
class RunImages:
    """Images and indices into them.

    Attributes:
        data: as the user gave it, "array" or "data set" for an object, None for the embedded set.
        source: the images to learn from.
        pretraining: indices of those that are learnt from.
        test: where the held-out images are (the source itself, or another); None without labels.
        held_out: indices of the held-out images in `test`.
        left_out: images of the source that patterns have left out.
        remarks: what the user should know before they are learnt from, a line each.
    """

    data: str | None
    source: Source
    pretraining: np.ndarray
    test: Source | None
    held_out: np.ndarray | None
    left_out: int = 0
    remarks: tuple[str, ...] = ()


def open_images(data: Any, config: Config) -> RunImages:
    """Open the images, attach labels, keep a part out for the monitor.

    Raises:
        DataError: images or labels that cannot be used.
        ConfigError: a batch larger than the number of images.
    """
    if config.data_root is not None and not any(_is_name(one) for one in (data, config.test)):
        raise ConfigError(f"data_root={config.data_root}: it is where data sets with a name are stored, leave it out")
    source, own_test, left_out = _learnt_from(data, config)
    test, held_out, pretraining = own_test, None, np.arange(len(source))
    if config.test is not None:

        def kept(test: Source) -> Source:
            return matching(test, (), config.exclude if isinstance(test, FolderSource) else ())

        like: dict[str, Any] = {"value_range": source.value_range, "channels": source.channels}
        test, _ = open_source(config.test, data_root=config.data_root, choose=kept, **like)
        test = test.in_range(source.value_range)  # also where the images to learn from have 8 bits
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
    name = os.fspath(data) if isinstance(data, str | os.PathLike) else None if data is None else "array"
    images = RunImages(name, source, pretraining, test, held_out, left_out, source.remarks)
    check_batch(images, config)
    return images


def _is_name(data: Any) -> bool:
    return isinstance(data, str) and not os.path.exists(os.path.expanduser(data))


def check_batch(images: RunImages, config: Config) -> None:
    """Whether there are enough images for a batch.

    Raises:
        ConfigError: a batch larger than the number of images.
    """
    if len(images.pretraining) < config.batch_size:
        raise ConfigError(
            f"batch_size={config.batch_size} with {len(images.pretraining)} images to learn from: "
            "lower --batch-size or give more images"
        )


def settled_for(config: Config, images: RunImages) -> Config:
    """The configuration with the range and the normalisation of its images.

    Raises:
        ConfigError: a normalisation of another number of channels.
    """
    source, text = images.source, config.normalization
    of_recipe = RECIPES[config.recipe]().normalization if config.recipe in RECIPES else None
    unstated = text == of_recipe and config.init is None  # trained weights have a normalisation of their own
    if unstated and (source.channels != RGB or isinstance(source.value_range, tuple)):
        text = AUTO
    if text == AUTO:
        text = normalization_text(*channel_statistics(source, images.pretraining, seed=config.seed))
    if len(normalization_values(text)[0]) != source.channels:
        raise ConfigError(
            f"normalization={text!r} with {source.name}, which has {count_of(source.channels)}: state as many numbers, "
            "or auto"
        )
    ranged = config.value_range or source.value_range
    return dataclasses.replace(config, value_range=ranged, normalization=text)


def _learnt_from(data: Any, config: Config) -> tuple[Source, Source | None, int]:
    """The images that patterns leave, ranged and with labels; their own test part; how many are left out."""
    left_out = 0

    def kept(whole: Source) -> Source:
        nonlocal left_out
        source = matching(whole, config.include, config.exclude)
        check_patterns(whole, (*config.include, *config.exclude))
        left_out = len(whole) - len(source)
        return source

    stated: dict[str, Any] = {"value_range": config.value_range, "channels": config.channels}
    source, own_test = open_source(data, data_root=config.data_root, choose=kept, **stated)
    if config.value_range not in (None, source.value_range):
        raise ConfigError(f"value_range={config.value_range} with {source.name}, which has 8 bits: leave it out")
    if config.labels is not None:
        source = with_labels(source, config.labels)
    return source, own_test, left_out
