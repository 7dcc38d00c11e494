"""What a run says before it begins: of its images (classes, doubts, what is left out, copies among the held-out), its
views and itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moco.config import Config
from moco.data.bands import RGB, count_of
from moco.data.base import UNKNOWN, Source
from moco.data.folder import FolderSource
from moco.data.layout import doubts
from moco.data.leakage import shared_images
from moco.normalization import NORMALIZATIONS
from moco.sizes import size_text
from moco.training.device import busy_remark
from moco.training.images import RunImages
from moco.training.loop import Training
from moco.training.mechanism import remarks

_NAMED = 5  # class names in a line
_COMPARED = 100_000  # files at most whose bytes are compared before a run begins


def about_images(images: RunImages, config: Config) -> Iterator[str]:
    """A line each, with the remedy where one is needed."""
    source = images.source
    if images.left_out:
        yield f"{images.left_out:,} of {images.left_out + len(source):,} images left out by --include, --exclude"
    yield from _channels(source, config)
    if config.knn_evaluations:
        yield _classes(source, config)
    yield from doubts(source if config.knn_evaluations else source.with_labels(None, ()))
    if images.test is not None and images.held_out is not None:
        yield from _copies(source.subset(images.pretraining), images.test.subset(images.held_out))


def about_views(config: Config) -> Iterator[str]:
    """Which operations of the recipe have no meaning for the channels, and what takes their place."""
    jittered = ("saturation", "hue") if config.jitter_probability else ()
    lost = [name for name in (*jittered, "grayscale_probability") if getattr(config, name)]
    if config.channels is not None and config.channels != RGB and lost:
        names = ", ".join(name.removesuffix("_probability") for name in lost)
        yield (
            f"views of {count_of(config.channels)}: without {names}, which are for RGB; colour jitter changes "
            "brightness and contrast of each channel by itself"
        )


def _channels(source: Source, config: Config) -> Iterator[str]:
    """The normalisation, where it is of no name."""
    if config.normalization not in NORMALIZATIONS:
        yield f"normalisation of {count_of(source.channels)}, mean/standard deviation: {config.normalization}"


def _classes(source: Source, config: Config) -> str:
    """Where the classes come from, how many, their first names, and how to do without."""
    if source.labels is None:
        return "classes: none known, so no kNN figures; class folders or --labels would give them"
    known = source.labels[source.labels != UNKNOWN]
    numbers = np.unique(known)
    names = [source.class_names[number] if source.class_names else str(number) for number in numbers[:_NAMED]]
    some = "" if len(known) == len(source) else f" of {len(known):,} of the images"
    if config.labels is not None:
        origin = config.labels
    else:
        origin = f"the folders in {source.root}" if isinstance(source, FolderSource) else f"labels of {source.name}"
    named = ", ".join(names) + (", ..." if len(numbers) > _NAMED else "")
    alone = "; one class alone tells nothing apart" if len(numbers) == 1 and config.labels is None else ""
    return (
        f"classes{some}: {len(numbers):,} from {origin} ({named}){alone}; for kNN figures only, --knn-evaluations 0 "
        "does without"
    )


def _copies(train: Source, test: Source) -> Iterator[str]:
    """Compares files, or pixels that lie in memory; anything else would have to be decoded first."""
    files = isinstance(train, FolderSource) and isinstance(test, FolderSource)
    if files and len(train) > _COMPARED:
        yield f"held-out images are not compared with {len(train):,} images that are learnt from: moco evaluate does"
    elif files or (train.decoded and test.decoded):
        pairs = shared_images(train, test)
        if pairs:
            yield (
                f"{len(pairs):,} of {len(test):,} held-out images are learnt from too, byte for byte "
                f"({pairs[0][0]} = {pairs[0][1]}): kNN figures flatter, remove the copies"
            )


def about_run(run: Training, images: RunImages, reason: str) -> Iterator[str]:
    """Length, network and how it computes, with the `reason`; what may slow it down or surprise."""
    config, device = run.config, run.fabric.device
    yield (
        f"{len(images.pretraining):,} images from {images.source.name}, {run.total_steps:,} steps of "
        f"{config.batch_size} ({run.total_steps / run.steps_per_epoch:.1f} epochs), recipe {config.recipe}, "
        f"{config.backbone} at {size_text(config.image_size)} px on {device.type}, "
        f"learning rate {config.learning_rate:g}, BatchNorm cure: {run.model.batchnorm}"
    )
    compiled = ", compiled" if config.compile else ""
    yield f"computing in {config.precision}, {config.layout.replace('_', '-')}{compiled} ({reason})"
    for size, end in config.sizes.ends(run.total_steps):
        yield f"views of {size_text(size)} px up to step {end:,}, of {size_text(config.image_size)} px at the end"
    yield from remarks(config, len(images.pretraining))
    if config.chunk_size is not None:
        count = -(-config.batch_size_per_rank // config.chunk_size)
        alike = ", BatchNorm has the statistics of a chunk" if run.model.batch_counts else ""
        yield (
            f"each device encodes its {config.batch_size_per_rank:,} samples in {count:,} chunks, and those with a "
            f"gradient twice (gradient caching){alike}"
        )
    busy = busy_remark(config, device)
    if busy is not None:
        yield busy
