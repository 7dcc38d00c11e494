"""The image in an item of a user's data set, whatever form it has there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from moco.data.bands import RGB, Layout, in_channels, layout_of
from moco.data.bit_depth import FULL, Depth, eight_bit
from moco.data.decode import converted, decode_pixels, image_layout, read_pixels

_KEYS = ("image", "img", "pixel_values")
_CURE = "take Normalize out of the transform, or give uint8"
_SHAPES = "(H, W) or (H, W, C)"


def item_pixels(
    item: Any, column: str | None, min_side: int | None, depth: Depth = FULL, channels: int = RGB
) -> np.ndarray:
    """The image in an item, (H, W, C) uint8. `column`: where it stands in a dict; `min_side`: see `read_image`.

    Raises:
        TypeError, ValueError: there is none, or it has other channels.
        DamagedImage: a path or content that cannot be decoded.
    """
    value = _value(item, column)
    if isinstance(value, bytes):
        return decode_pixels(value, item="", min_side=min_side, depth=depth, channels=channels)
    if isinstance(value, Path):
        return read_pixels(value, min_side=min_side, depth=depth, channels=channels)
    if isinstance(value, np.ndarray):
        _array_layout(value).check(channels)
        return in_channels(_eight_bit(np.atleast_3d(value)), channels)
    pixels = np.asarray(converted(value, channels, depth))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def item_layout(item: Any, column: str | None) -> Layout | None:
    """Its size and channels; None where its file cannot be read.

    Raises:
        TypeError, ValueError: there is no image.
    """
    value = _value(item, column)
    if isinstance(value, np.ndarray):
        return _array_layout(value)
    if isinstance(value, Image.Image):
        return layout_of(value)
    return image_layout(value) if isinstance(value, Path) else None


def scaled_floats(values: np.ndarray) -> np.ndarray:
    """Floats from 0 to 1 as uint8; anything else as it is.

    Raises:
        ValueError: other floats.
    """
    return eight_bit(values, _CURE) if values.dtype.kind == "f" else values


def _value(item: Any, column: str | None) -> bytes | Path | np.ndarray | Image.Image:
    """What of an item is the image: a file's content or path, an array (H, W) or (H, W, C), or a PIL image."""
    if isinstance(item, tuple | list) and item:
        if len(item) > 1 and (isinstance(item[1], Image.Image) or getattr(item[1], "ndim", 0) > 2):
            raise ValueError("it holds several images; what makes views of an image belongs into transform=")
        item = item[0]
    elif isinstance(item, dict):
        key = next((key for key in (column, *_KEYS) if key in item), None)
        if key is None:
            raise TypeError(f"dict of {', '.join(map(str, item))}; expected 'image' or 'img'")
        item = item[key]
    if isinstance(item, dict) and (item.get("bytes") or item.get("path")):  # an image that Hugging Face left encoded
        item = item.get("bytes") or item["path"]
    if isinstance(item, str | os.PathLike):
        return Path(item)
    if isinstance(item, torch.Tensor):
        if item.ndim not in (2, 3):
            raise ValueError(f"tensor of shape {tuple(item.shape)}; expected (C, H, W)")
        item = (item.detach().cpu() if item.ndim == 2 else item.detach().cpu().movedim(0, -1)).numpy()
    if not isinstance(item, bytes | np.ndarray | Image.Image):
        raise TypeError(f"{type(item).__name__}; expected a PIL image, a path, an array or a tensor")
    return item


def _array_layout(values: np.ndarray) -> Layout:
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(f"array of shape {values.shape}; expected {_SHAPES}")
    height, width, *rest = values.shape
    count = rest[0] if rest else 1
    if count > min(height, width):
        raise ValueError(f"array of shape {values.shape}; expected {_SHAPES}, or tensors (C, H, W)")
    return Layout(height, width, count, alpha=count == 4)


def _eight_bit(values: np.ndarray) -> np.ndarray:
    values = scaled_floats(values)
    if values.dtype != np.uint8:
        raise TypeError(f"{values.dtype} array; expected uint8, or float from 0 to 1")
    return values
