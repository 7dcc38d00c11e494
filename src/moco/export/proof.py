"""An exported file is right when its own target, given the same JPEG files, gives the same features."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moco.data.bands import RGB
from moco.data.decode import decode_pixels
from moco.errors import RunError
from moco.export.load import Pretrained
from moco.sizes import Size, height_width

SEED = 0
# Of the largest feature: other orders of summation cost 1e-7 to 1e-5 of it, a wrong tensor a tenth and more.
FEATURES_TOLERANCE = 1e-4
PIXELS_TOLERANCE = 1e-5  # in normalised units; one grey level of 255 is 0.02


@dataclasses.dataclass(frozen=True)
class Reader:
    """An exported file as its own target reads it.

    Attributes:
        features: normalised images (N, C, H, W) -> features (N, D).
        preprocess: image -> (C, H, W), by the target's own transform or the one that its documentation gives;
            None where the target takes images of any size and has no evaluation transform.
    """

    features: Callable[[Tensor], Tensor]
    preprocess: Callable[[Any], Tensor] | None = None


class Proof(NamedTuple):
    """How far the target's answers are from ours, from JPEG file to feature; see `moco.Exported`."""

    difference: float
    largest_feature: float
    pixels: float | None
    images: int


def prove(model: Pretrained, reader: Reader, *, what: str) -> Proof:
    """Compare the target with the model on the same files.

    Raises:
        RunError: they differ, or the model gives all images the same features, which would prove nothing.
    """
    size, channels = model.preprocess.size, model.preprocess.channels
    files: list[bytes] | list[np.ndarray] = probe_files(size) if channels == RGB else probe_arrays(size, channels)
    images = torch.stack([model.preprocess(_decoded(file)) for file in files])
    theirs, pixels = images, None
    if reader.preprocess is not None:
        theirs = torch.stack([reader.preprocess(_opened(file)) for file in files])
        pixels = _difference(theirs, images, PIXELS_TOLERANCE, f"{what}: preprocessed images")
    with torch.inference_mode():
        expected, got = model(images), reader.features(theirs)
        expected_alone, alone = model(images[:1]), reader.features(theirs[:1])
    if not bool(expected.isfinite().all()):
        raise RunError("the features hold NaN or infinite values: the network has diverged")
    largest = float(expected.abs().max())
    allowed = FEATURES_TOLERANCE * largest
    if float((expected - expected[0]).abs().max()) <= allowed:
        raise RunError("the network gives all images the same features (it has collapsed): no export can be proven")
    pairs = ((got, expected), (alone, expected_alone))
    difference = max(_difference(*pair, allowed, f"{what}: features up to {largest:.3g}") for pair in pairs)
    return Proof(difference, largest, pixels, len(files))


def _difference(got: Tensor, expected: Tensor, allowed: float, what: str) -> float:
    if got.shape != expected.shape:
        raise RunError(f"{what}: {tuple(got.shape)} instead of {tuple(expected.shape)}: nothing written")
    difference = float((got - expected).abs().max())
    if not difference <= allowed:  # NaN is none
        raise RunError(f"{what} differ by {difference:.3g} (allowed: {allowed:.1g}): nothing written")
    return difference


def _decoded(file: bytes | np.ndarray) -> np.ndarray:
    """As we read a file of these bytes; an array, where no JPEG file has the channels, is an image already."""
    return decode_pixels(file, item="an image of the comparison") if isinstance(file, bytes) else file


def _opened(file: bytes | np.ndarray) -> Image.Image | np.ndarray:
    """As users of other tools open an image."""
    if isinstance(file, np.ndarray):
        return file
    with Image.open(io.BytesIO(file)) as image:
        return image.convert("RGB")


def probe_files(size: Size) -> list[bytes]:
    """JPEG files, their bytes, with coarse and fine detail, the same at each call, for a target of `size` pixels.

    Both orientations; odd sides; one is smaller than the target. After resizing, 0 to 6 pixels have to be cut off
    the longer side, so that each way of rounding the cut's place is seen.
    """
    generator = np.random.default_rng(SEED)
    files, sides = [], height_width(size)[::-1]
    for number, surplus in enumerate((0, 1, 2, 3, 5, 6)):
        short, long = sides if number % 2 else sides[::-1]  # of the target: width first where the image is upright
        kept = 2 * short + 2 * number + 1 if number else short // 2 + 1
        cut = -(-(long + surplus) * kept // short)  # the least that leaves the surplus
        shape = (kept, cut) if number % 2 else (cut, kept)
        coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(shape, Image.Resampling.BICUBIC), dtype=np.int16)
        noise = generator.integers(-20, 21, pixels.shape)
        content = io.BytesIO()  # in memory: a killed process leaves no files
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=95)
        files.append(content.getvalue())
    return files


def probe_arrays(size: Size, channels: int) -> list[np.ndarray]:
    """Images (H, W, C) uint8 of growing contrast, the same at each call, for a target of `size` pixels."""
    generator = np.random.default_rng(SEED)
    height, width = height_width(size)
    shapes = [(height + number, 2 * width, channels) for number in range(6)]
    return [generator.integers(0, 40 * (n + 1), shape).astype(np.uint8) for n, shape in enumerate(shapes)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps other libraries' warnings and notes off the terminal: what counts is the comparison at the end."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
