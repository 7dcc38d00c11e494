"""From an image to what a trained backbone expects. The one definition: evaluation, features and exports follow it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moco.data.bands import RGB
from moco.data.bit_depth import Depth, ValueRange, eight_bit
from moco.data.decode import converted, read_pixels
from moco.errors import ConfigError, DataError
from moco.sizes import Size, height_width, size_of

# What is fixed about it; stated in files so that other tools' readers know. Files of earlier versions lack `resize`:
# they cut the square out before they resized it, which moves some pixels by a few grey levels.
_FIXED = {"scale": "0 to 1", "resize": "shorter side, bilinear, antialiased", "crop": "centre square"}
_NOT_SQUARE = {**_FIXED, "resize": "to cover, bilinear, antialiased", "crop": "centre"}
_UNSCALED = "none, or to cover where smaller, bilinear, antialiased"
_LONGEST = 100  # times what is kept of it: of a longer strip the middle is taken first, else it could fill the memory


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Image to (C, H, W) float32 of one size, as the network sees images whenever it is evaluated; C is 3 for RGB.

    The shorter side is resized to `size` (Pillow's bilinear, antialiased), the centre cut out; then scaled to 0..1,
    less `mean`, divided by `std`: torchvision's Resize(size), CenterCrop(size), ToTensor, Normalize on PIL images, bit
    for bit. Where height and width differ, the image keeps its shape and is made as small as covers both: timm's
    ResizeKeepRatio and CenterCrop.

    Attributes:
        size: side of the result in pixels, or (height, width).
        mean, std: of the channels, for images in 0..1; their number is that of the channels.
        value_range: of images of floats or of more than 8 bits, the value that becomes 255, or those that become 0 and
            255, as in the run; None: not known.
        resize: False leaves an image as it is and cuts its centre out, for a network that learnt from windows of images
            (`moco.Config.fixed_crop`); only one that is too small is resized, so that it covers the size.

    Raises:
        DataError: a size or range below 1, another number of means, or a standard deviation of 0 or less.
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: ValueRange | None = None
    resize: bool = True

    def __post_init__(self) -> None:
        least = self.value_range if isinstance(self.value_range, int) else 1
        try:
            object.__setattr__(self, "size", size_of(self.size, "size"))
            least = min(least, *height_width(self.size))
        except ConfigError:
            least = 0
        unfit = isinstance(self.value_range, tuple) and not self.value_range[0] < self.value_range[1]
        if least < 1 or unfit or not 0 < len(self.mean) == len(self.std) or not min(self.std) > 0:
            raise DataError(
                f"preprocessing size={self.size} mean={self.mean} std={self.std} value_range={self.value_range}: "
                "need a size and a range of at least 1 and a value each for every channel, std above 0"
            )

    @property
    def channels(self) -> int:
        """C, of the images."""
        return len(self.mean)

    def __call__(self, image: str | os.PathLike[str] | Image.Image | np.ndarray | Tensor) -> Tensor:
        """(C, H, W) float32, normalised; (N, C, H, W) for a batch.

        Args:
            image: a path (read as `moco.embed` reads it: at full size, turned upright); a PIL image, in any mode that
                has a plain meaning in these channels; an array (H, W, C), uint8 or any number that has a known range;
                or a tensor (C, H, W) or (N, C, H, W) uint8.

        Raises:
            DamagedImage: the file cannot be read.
            DataError: an array or tensor of another shape or type.
            ValueError: grey values outside the ranges that have a plain meaning.
        """
        if isinstance(image, Tensor):
            return self._tensor(image)
        channels, depth = self.channels, Depth.of(self.value_range)
        if isinstance(image, str | os.PathLike):
            image = read_pixels(os.fspath(image), depth=depth, channels=channels)
        if isinstance(image, Image.Image):
            image = np.asarray(converted(image, channels, depth))
            image = image if image.ndim == 3 else image[..., None]
        fits = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == channels
        if fits and image.dtype != np.uint8 and image.dtype.kind in "uif" and self.value_range is not None:
            image = eight_bit(image, depth=depth)
        if not fits or image.dtype != np.uint8:
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            need = f"a path, a PIL image, (H, W, {channels}) uint8 or a tensor ({channels}, H, W) uint8"
            raise DataError(f"image {what}: need {need}")
        pixels = torch.from_numpy(np.array(self.cut(image)))  # a copy: it may be read-only
        return self.normalize(pixels.permute(2, 0, 1)).contiguous()

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """An image (H, W, C) uint8 in the size of the result, perhaps read-only."""
        return centre_pixels(pixels, self.size, resize=self.resize)

    def _tensor(self, images: Tensor) -> Tensor:
        count = self.channels
        if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] != count:
            need = f"({count}, H, W) or (N, {count}, H, W) uint8"
            raise DataError(f"tensor {images.dtype} {tuple(images.shape)}: need {need}")
        if images.ndim == 4:
            out = [self._tensor(image) for image in images]
            return torch.stack(out) if out else self.normalize(images.new_empty(0, count, *height_width(self.size)))
        return self(images.cpu().permute(1, 2, 0).contiguous().numpy()).to(images.device)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., C, H, W) uint8 to float32 as the network expects it; keeps device and memory format."""
        mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)  # in place: no further buffers

    @property
    def _fixed(self) -> dict[str, str]:
        fixed = _NOT_SQUARE if isinstance(self.size, tuple) else _FIXED
        return fixed if self.resize else {**fixed, "resize": _UNSCALED}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as the header of `backbone.safetensors` holds it."""
        top = list(self.value_range) if isinstance(self.value_range, tuple) else self.value_range
        ranged = {} if top is None else {"value_range": top}
        return {
            "color": _color(self.channels),
            **self._fixed,
            "size": list(self.size) if isinstance(self.size, tuple) else self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            **ranged,
        }

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Self:
        """Undo `as_dict`.

        Raises:
            DataError: a value is missing or of another type, or the image is to be treated in another way than this.
        """
        if not isinstance(stated, Mapping):
            raise DataError(f"preprocessing {stated!r}: need an object with size, mean and std")
        try:
            mean, std = (tuple(float(value) for value in stated[name]) for name in ("mean", "std"))
            top = stated.get("value_range")
            ranged = (
                (float(top[0]), float(top[1])) if isinstance(top, list | tuple) else top if top is None else int(top)
            )
            size: Any = stated["size"]
            size = size_of(size, "size") if isinstance(size, list | tuple) else int(size)
            found = cls(size, mean, std, ranged, stated.get("resize") != _UNSCALED)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"preprocessing {dict(stated)}: need size, mean and std ({error})") from error
        known = {"color": _color(found.channels), **found._fixed}
        other = {name: stated[name] for name in known if stated.get(name, known[name]) != known[name]}
        if other:
            raise DataError(f"preprocessing {other}: only { ({name: known[name] for name in other}) } is known")
        return found


def by_pillow(pixels: np.ndarray, work: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """What Pillow makes of an image (H, W, C) uint8: of RGB at once, of other channels one by one, each as grey."""
    if pixels.shape[2] == RGB:
        return np.asarray(work(Image.fromarray(pixels)))
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, 2, 0))
    return np.stack([np.asarray(work(plane)) for plane in planes], axis=2)


def centre_pixels(pixels: np.ndarray, size: Size, *, resize: bool = True) -> np.ndarray:
    """An image, (H, W, C) uint8, as small as covers `size`, and its centre cut out.

    Without `resize` what is larger keeps its scale.

    Returns:
        Of this size, uint8, perhaps read-only. Where the cut cannot be in the middle, it is at the even offset of the
        two next to it, as in torchvision.
    """
    if pixels.shape[:2] == height_width(size):
        return pixels
    (height, width), (rows, columns) = pixels.shape[:2], height_width(size)
    if not resize and height >= rows and width >= columns:
        top, left = round((height - rows) / 2), round((width - columns) / 2)  # half to even
        return pixels[top : top + rows, left : left + columns]
    return by_pillow(pixels, lambda image: _centre(image, size))


def cut_centre(image: Image.Image, size: Size) -> Image.Image:
    """The centre of an image that covers the size."""
    height, width = height_width(size)
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)  # half to even
    return image.crop((left, top, left + width, top + height))


def _color(channels: int) -> str:
    return {RGB: "RGB", 1: "grey"}.get(channels, f"{channels} channels")


def _centre(image: Image.Image, size: Size) -> Image.Image:
    height, width = height_width(size)
    if image.width * height >= image.height * width:  # its height is what the size just takes
        kept, fits = (width * image.height // height, image.height), image.height == height
    else:
        kept, fits = (image.width, height * image.width // width), image.width == width
    most = _LONGEST * kept[0], _LONGEST * kept[1]
    if image.width > most[0] or image.height > most[1]:
        left, top = max(image.width - most[0], 0) // 2, max(image.height - most[1], 0) // 2
        image = image.crop((left, top, left + min(image.width, most[0]), top + min(image.height, most[1])))
    if not fits:
        image = image.resize(_covering(image.width, image.height, size), Image.Resampling.BILINEAR)
    return cut_centre(image, size)


def _covering(width: int, height: int, size: Size) -> tuple[int, int]:
    """Width and height of an image once it just covers a size: rounded as torchvision and timm do."""
    if isinstance(size, int):
        short = min(width, height)
        return size * width // short, size * height // short
    scale = min(height / size[0], width / size[1])
    return round(width / scale), round(height / scale)
