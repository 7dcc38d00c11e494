"""From one image to what a trained backbone expects: the centre square at one size, scaled and normalised."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moco.data.crop import resized_crop_image
from moco.data.decode import read_image, to_rgb
from moco.errors import DataError

# What is fixed about it; stated in files so that other tools' readers know.
_FIXED = {"color": "RGB", "scale": "0 to 1", "crop": "centre square"}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Image to (3, size, size) float32: what the network saw when a run was evaluated.

    The centre square, resized with antialiasing (Pillow's bilinear), scaled to 0..1, less `mean`, divided by `std`.

    Attributes:
        size: side of the result in pixels.
        mean, std: of the three channels, for images in 0..1.

    Raises:
        DataError: a size below 1, not three values each, or a standard deviation of 0 or less.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.size < 1 or len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise DataError(
                f"preprocessing size={self.size} mean={self.mean} std={self.std}: "
                "need a size of at least 1 and three values each, std above 0"
            )

    def __call__(self, image: Image.Image | str | os.PathLike[str]) -> Tensor:
        """(3, size, size) float32, normalised.

        A path is read as `moco.embed` reads it (turned upright, large JPEGs decoded at a reduced size). An image is
        taken as its pixels lie, in any mode that has a plain meaning in RGB.

        Raises:
            DamagedImage: the file cannot be read.
            ValueError: grey values outside the ranges that have a plain meaning.
        """
        if not isinstance(image, Image.Image):
            image = read_image(os.fspath(image), min_side=self.size)
        pixels = centre_pixels(to_rgb(image), self.size)
        return self.normalize(torch.from_numpy(pixels.copy()).permute(2, 0, 1))

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 to float32 as the network expects it; keeps device and memory format."""
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)  # in place: no further buffers

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as the header of `backbone.safetensors` holds it."""
        return {**_FIXED, "size": self.size, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Self:
        """Undo `as_dict`.

        Raises:
            DataError: a value is missing or of another type, or the image is to be treated in another way than this.
        """
        if not isinstance(stated, Mapping):
            raise DataError(f"preprocessing {stated!r}: need an object with size, mean and std")
        other = {name: stated[name] for name in _FIXED if stated.get(name, _FIXED[name]) != _FIXED[name]}
        if other:
            raise DataError(f"preprocessing {other}: only { ({name: _FIXED[name] for name in other}) } is known")
        try:
            mean, std = (tuple(float(value) for value in stated[name]) for name in ("mean", "std"))
            return cls(int(stated["size"]), mean, std)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"preprocessing {dict(stated)}: need size, mean and std ({error})") from error


def centre_pixels(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """The largest centred square at size x size, (size, size, 3) uint8, perhaps read-only.

    By Pillow, as other tools' transforms do it, so that weights that were exported see in them what they saw here.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    side = min(image.height, image.width)
    box = (image.height - side) // 2, (image.width - side) // 2, side, side
    return resized_crop_image(image, box, size, False)
