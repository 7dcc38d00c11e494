"""From an image to what a trained backbone expects. The one definition: evaluation, features and exports follow it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moco.data.bit_depth import LARGEST, Depth
from moco.data.decode import read_image, to_rgb
from moco.errors import DataError

# What is fixed about it; stated in files so that other tools' readers know. Files of earlier versions lack `resize`:
# they cut the square out before they resized it, which moves some pixels by a few grey levels.
_FIXED = {"color": "RGB", "scale": "0 to 1", "resize": "shorter side, bilinear, antialiased", "crop": "centre square"}
_LONGEST = 100  # times its width: of a longer strip the middle is taken first, else resizing it could fill the memory


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Image to (3, size, size) float32, as the network sees images whenever it is evaluated.

    The shorter side is resized to `size` (Pillow's bilinear, antialiased), the centre cut out; then scaled to 0..1,
    less `mean`, divided by `std`: torchvision's Resize(size), CenterCrop(size), ToTensor, Normalize on PIL images, bit
    for bit.

    Attributes:
        size: side of the result in pixels.
        mean, std: of the three channels, for images in 0..1.
        value_range: the value that becomes 255 in images of more than 8 bits, as in the run; None: not known.

    Raises:
        DataError: a size or range below 1, not three values each, or a standard deviation of 0 or less.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: int | None = None

    def __post_init__(self) -> None:
        sizes = [self.size] if self.value_range is None else [self.size, self.value_range]
        if min(sizes) < 1 or len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise DataError(
                f"preprocessing size={self.size} mean={self.mean} std={self.std} value_range={self.value_range}: "
                "need a size and a range of at least 1 and three values each, std above 0"
            )

    def __call__(self, image: str | os.PathLike[str] | Image.Image | np.ndarray | Tensor) -> Tensor:
        """(3, size, size) float32, normalised; (N, 3, size, size) for a batch.

        Args:
            image: a path (read as `moco.embed` reads it: at full size, turned upright); a PIL image, in any mode that
                has a plain meaning in RGB; an array (H, W, 3) uint8; or a tensor (3, H, W) or (N, 3, H, W) uint8.

        Raises:
            DamagedImage: the file cannot be read.
            DataError: an array or tensor of another shape or type.
            ValueError: grey values outside the ranges that have a plain meaning.
        """
        if isinstance(image, Tensor):
            return self._tensor(image)
        depth = Depth(self.value_range or LARGEST)
        if isinstance(image, str | os.PathLike):
            image = read_image(os.fspath(image), depth=depth)
        if isinstance(image, Image.Image):
            image = to_rgb(image, depth)
        elif not (
            isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        ):
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise DataError(f"image {what}: need a path, a PIL image, (H, W, 3) uint8 or a tensor (3, H, W) uint8")
        pixels = torch.from_numpy(np.array(centre_pixels(image, self.size)))  # a copy: it may be read-only
        return self.normalize(pixels.permute(2, 0, 1)).contiguous()

    def _tensor(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] != 3:
            raise DataError(f"tensor {images.dtype} {tuple(images.shape)}: need (3, H, W) or (N, 3, H, W) uint8")
        if images.ndim == 4:
            out = [self._tensor(image) for image in images]
            return torch.stack(out) if out else self.normalize(images.new_empty(0, 3, self.size, self.size))
        return self(images.cpu().permute(1, 2, 0).contiguous().numpy()).to(images.device)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 to float32 as the network expects it; keeps device and memory format."""
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)  # in place: no further buffers

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as the header of `backbone.safetensors` holds it."""
        ranged = {} if self.value_range is None else {"value_range": self.value_range}
        return {**_FIXED, "size": self.size, "mean": list(self.mean), "std": list(self.std), **ranged}

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
            ranged = {name: int(stated[name]) for name in ("value_range",) if name in stated}
            return cls(int(stated["size"]), mean, std, **ranged)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"preprocessing {dict(stated)}: need size, mean and std ({error})") from error


def centre_pixels(pixels: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """An RGB image, (H, W, 3) uint8 or PIL, with its shorter side at `size` and its centre cut out.

    Returns:
        (size, size, 3) uint8, perhaps read-only. Where the cut cannot be in the middle, it is at the even offset of the
        two next to it, as in torchvision.
    """
    if isinstance(pixels, np.ndarray):
        if pixels.shape[:2] == (size, size):
            return pixels
        pixels = Image.fromarray(pixels)
    image = pixels
    width, height = image.size
    short, most = min(width, height), _LONGEST * min(width, height)
    if max(width, height) > most:
        left, top = max(width - most, 0) // 2, max(height - most, 0) // 2
        image = image.crop((left, top, left + min(width, most), top + min(height, most)))
        width, height = image.size
    if short != size:
        width, height = size * width // short, size * height // short
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)  # half to even
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)
