"""An exported file is right when its own target, fed the same images, gives the same features."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moco.errors import RunError
from moco.export.load import Pretrained

IMAGES = 4
SEED = 0
# Shares of the largest feature: other orders of summation cost 1e-6 to 1e-5 of it, a wrong tensor a tenth and more.
FEATURES_TOLERANCE = 1e-4
# In normalised units; one grey level of 255 is 0.02. Resizing on bytes may round to the neighbouring level.
PIXELS_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Reader:
    """An exported file as its own target reads it.

    Attributes:
        features: normalised images (N, 3, S, S) -> features (N, D).
        preprocess: image -> (3, S, S), where the target has its own; else None.
    """

    features: Callable[[Tensor], Tensor]
    preprocess: Callable[[Image.Image], Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class Proof:
    """How far the target's answers are from ours.

    Attributes:
        difference: largest difference of two features.
        largest_feature: largest absolute feature, to compare with.
        pixels: largest difference of two preprocessed images, in normalised units; None where the target has no
            preprocessing of its own.
        images: how many were compared.
    """

    difference: float
    largest_feature: float
    pixels: float | None
    images: int = IMAGES


def prove(model: Pretrained, reader: Reader, *, what: str) -> Proof:
    """Compare the target with the model on the same images.

    Raises:
        RunError: they differ, or the model gives all images the same features, which would prove nothing.
    """
    images = torch.stack([model.preprocess(image) for image in probe_images(model.preprocess.size)])
    with torch.inference_mode():
        expected, expected_alone = model(images), model(images[:1])
        got, alone = reader.features(images), reader.features(images[:1])
    if not bool(expected.isfinite().all()):
        raise RunError("the features hold NaN or infinite values: the network has diverged")
    largest = float(expected.abs().max())
    if float((expected - expected[0]).abs().max()) <= FEATURES_TOLERANCE * largest:
        raise RunError("the network gives all images the same features (it has collapsed): no export can be proven")
    if got.shape != expected.shape or alone.shape != expected_alone.shape:
        raise RunError(f"{what} gives {tuple(got.shape)} where the run gives {tuple(expected.shape)}: nothing written")
    difference = max(float((got - expected).abs().max()), float((alone - expected_alone).abs().max()))
    if not difference <= FEATURES_TOLERANCE * largest:
        raise RunError(
            f"{what} differs by {difference:.3g} with features up to {largest:.3g} (allowed: "
            f"{FEATURES_TOLERANCE * largest:.1g}): nothing written"
        )
    pixels = None if reader.preprocess is None else _compare_pixels(model, reader.preprocess, what)
    return Proof(difference, largest, pixels)


def _compare_pixels(model: Pretrained, preprocess: Callable[[Image.Image], Tensor], what: str) -> float:
    # Square ones: of others the target may cut the last fraction of a pixel elsewhere, before or after resizing.
    size = model.preprocess.size
    pairs = [(preprocess(image), model.preprocess(image)) for image in probe_images(2 * size, square=True)]
    if any(got.shape != expected.shape for got, expected in pairs):
        raise RunError(f"{what} makes images of {tuple(pairs[0][0].shape)}, the run {size} px: nothing written")
    difference = max(float((got - expected).abs().max()) for got, expected in pairs)
    if not difference <= PIXELS_TOLERANCE:
        raise RunError(
            f"{what} preprocesses images otherwise, by {difference:.3g} in normalised units: nothing written"
        )
    return difference


def probe_images(size: int, *, square: bool = False) -> list[Image.Image]:
    """Coloured patterns with coarse and fine detail, the same at each call; about `size` pixels a side."""
    generator = np.random.default_rng(SEED)
    images = []
    for number in range(IMAGES):
        shape = (size, size) if square or number == 0 else (size + 7 * number, size + 3)
        coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(shape, Image.Resampling.BICUBIC), dtype=np.int16)
        noise = generator.integers(-20, 21, pixels.shape)
        images.append(Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)))
    return images


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps other libraries' warnings and notes off the terminal: what counts is the comparison at the end."""
    loggers = [logging.getLogger(name) for name in ("transformers", "timm", "torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
