"""The images of a run: those that it learns from and those that its monitor asks about."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from moco.config import Config
from moco.data.bands import RGB, count_of
from moco.data.base import HEADERS, RangedSource, Source, spaced
from moco.data.channel_statistics import channel_statistics
from moco.data.folder import FolderSource
from moco.data.labels import same_classes, with_labels
from moco.data.patterns import check_patterns, matching
from moco.data.record import ImageRecord, RunRecord, joined
from moco.data.source import open_source
from moco.data.split import hold_out
from moco.errors import ConfigError, DataError
from moco.normalization import AUTO, NONE, normalization_text, normalization_values
from moco.recipes import RECIPES
from moco.sizes import height_width, size_text

MAX_HELD_OUT = 10_000
_SIZES, _LEAST_ROOM = 200, 0.5  # images whose size is looked at; share in which a window has to have room


@dataclasses.dataclass(frozen=True)
class RunImages:
    """Images and indices into them.

    Attributes:
        data: absolute path or name, "array" for an object of the user's, None for the embedded set.
        source: the images to learn from.
        pretraining: indices of those that are learnt from.
        test: where the held-out images are (the source itself, or another); None without labels.
        held_out: indices of the held-out images in `test`.
        left_out: images of the source that patterns have left out.
        remarks: what the user should know before they are learnt from, a line each.
        record: what a later part of the run compares with.
    """

    data: str | None
    source: Source
    pretraining: np.ndarray
    test: Source | None
    held_out: np.ndarray | None
    left_out: int = 0
    remarks: tuple[str, ...] = ()
    record: RunRecord | None = None


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What the part of the run that is to be resumed had.

    Attributes:
        config: its configuration.
        record: its images; None where it was of a version that kept none.
        accepted: whether others are taken for them.
    """

    config: Config
    record: RunRecord | None
    accepted: bool = False


def open_images(data: Any, config: Config, earlier: Earlier | None = None) -> RunImages:
    """Open the images, attach labels, keep a part out for the monitor: on resume, the part that was kept out before.

    Raises:
        DataError: images or labels that cannot be used, or that are not those of the earlier part of the run.
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
    images = RunImages(place_of(data), source, pretraining, test, held_out, left_out, source.remarks)
    images = _recorded(images, config, earlier)
    check_batch(images, config)
    return images


def place_of(data: Any) -> str | None:
    """Where the images are, for the configuration: an absolute path, or the name of a data set as it is."""
    if not isinstance(data, str | os.PathLike):
        return None if data is None else "array"
    path = Path(data).expanduser()
    return os.path.abspath(path) if path.exists() else os.fspath(data)


def _recorded(images: RunImages, config: Config, earlier: Earlier | None) -> RunImages:
    """With the record of these images; the split of the earlier part of the run, whose images must be the same."""
    own_test = images.test is not None and images.test is not images.source
    learnt = ImageRecord.take(images.source)
    test = ImageRecord.take(images.test) if images.test is not None and own_test else None
    held_back = () if own_test or images.held_out is None else images.held_out
    held_out = joined(images.source.record_name(int(index)) for index in held_back)
    if earlier is None or earlier.record is None:
        return dataclasses.replace(images, record=RunRecord(learnt, test, held_out))
    before, remarks = earlier.record, list(images.remarks)
    for then, now, what in ((before.learnt, learnt, images.source.name), (before.test, test, "test")):
        found = then.differences(now) if then is not None and now is not None else []
        if found and not (earlier.accepted and config.mechanism != "memory-bank"):
            cure = "a memory bank has a row for each of them" if earlier.accepted else "or add --changed-images"
            raise DataError(
                f"{what}: not the images that the run began with: {'; '.join(found)}: restore them, name the place "
                f"where they are now; {cure}"
            )
        if found:
            remarks.append(f"{what}: taken with its changes: {'; '.join(found)}")
    held_back = learnt.positions(before.held_out)
    if images.test is images.source and not len(held_back):
        raise DataError("the run has learnt from all its images, none is left to evaluate it on: knn_evaluations=0")
    return dataclasses.replace(
        images,
        pretraining=np.setdiff1d(np.arange(len(images.source)), held_back, assume_unique=True),
        held_out=held_back if images.test is images.source else images.held_out,
        remarks=tuple(remarks),
        record=RunRecord(learnt, test or before.test, before.held_out),
    )


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


def check_windows(source: Source, config: Config) -> None:
    """Whether windows of image_size have places to choose from, by a sample of the images.

    Raises:
        ConfigError: the images are no larger, so that both views of each would be the same, or smaller.
    """
    if not config.fixed_crop:
        return
    shapes = source.shapes(np.array(spaced(len(source), _SIZES)))
    if shapes is None:
        return
    shapes = shapes[(shapes > 0).all(axis=1)]
    height, width = height_width(config.image_size)
    fits, larger = (shapes >= (height, width)).all(axis=1), (shapes > (height, width)).any(axis=1)
    if len(shapes) and np.mean(fits & larger) < _LEAST_ROOM:
        shape = tuple(int(side) for side in np.median(shapes, axis=0))
        raise ConfigError(
            f"image_size={size_text(config.image_size)} with fixed_crop and images of {size_text(shape)} px"
            f"{'' if source.uniform_shape else ' in the median'}: windows need room to move, state a smaller "
            "--image-size"
        )


def settled_for(config: Config, images: RunImages) -> Config:
    """The configuration with the range and the normalisation of its images, and with absolute paths.

    Raises:
        ConfigError: a normalisation of another number of channels.
    """
    source, text = images.source, config.normalization
    of_recipe = RECIPES[config.recipe]().normalization if config.recipe in RECIPES else None
    unstated = text == of_recipe != NONE and config.init is None  # trained weights have a normalisation of their own
    if unstated and (source.channels != RGB or isinstance(source.value_range, tuple)):
        text = AUTO
    if text == NONE:
        text = normalization_text((0.0,) * source.channels, (1.0,) * source.channels)
    if text == AUTO:
        text = normalization_text(*channel_statistics(source, images.pretraining, seed=config.seed))
    if len(normalization_values(text)[0]) != source.channels:
        raise ConfigError(
            f"normalization={text!r} with {source.name}, which has {count_of(source.channels)}: state as many numbers, "
            "or auto"
        )
    ranged = config.value_range or source.value_range
    places: dict[str, Any] = {name: place_of(getattr(config, name)) for name in ("test", "labels", "data_root")}
    return dataclasses.replace(config, value_range=ranged, normalization=text, **places)


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
    source = _with_stated_range(source, config)
    if config.labels is not None:
        source = with_labels(source, config.labels)
    return source, own_test, left_out


def _with_stated_range(source: Source, config: Config) -> Source:
    """The images, with a line where a range of values is stated and none of a few has more than 8 bits.

    Raises:
        ConfigError: none of all has.
    """
    if config.value_range is None:
        return source
    plain = isinstance(source, RangedSource) and not source.seems_deep()
    if config.value_range != source.value_range or (plain and len(source) <= HEADERS):
        raise ConfigError(f"value_range={config.value_range} with {source.name}, which has 8 bits: leave it out")
    if not plain:
        return source
    said = f"{source.name}: none of {HEADERS} images looked at has more than 8 bits: value_range changes no such image"
    return source.with_labels(source.labels, source.class_names, remarks=(said,))
