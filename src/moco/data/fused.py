"""The exact colours without choices between samples, for a compiler to fuse: few passes over a GPU's memory.

Operation by operation, `finish.finish_` passes over a batch some sixty times; that is nothing to a CPU, whose cache
holds a block of it, but 7 % of a step of ResNet-50 on a GPU, by count (docs/log.md). Here every sample takes every
operation and keeps what it is to have, so that a compiler makes a handful of kernels of one static shape. The result is
that of `finish_` up to rounding.

N: images   H, W: height and width
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from moco.data import photometric


def colours(
    images: Tensor, shares: Tensor, turns: Tensor, shifts: Tensor, gray: Tensor, *, grayscale_first: bool
) -> Tensor:
    """Jitter and grey of float images in [0, 255], (N, 3, H, W), as values in [0, 1].

    Args:
        images: the images.
        shares: (4, 3, N), of image, grey image and mean grey value at each of four places.
        turns: (4, N) bool, whether the hue is turned there instead; `shifts`: (N,), by what share of the circle.
        gray: (N,) bool, which images become grey, before the jitter or after it.
        grayscale_first: which of the two.
    """
    images = images * (1.0 / 255.0)
    if grayscale_first:
        images = _where(gray, photometric.grayscale(images), images)
    for place in range(4):
        image, own, mean = (share.view(-1, 1, 1, 1) for share in shares[place])
        grey = photometric.luma(images)
        blended = image * images + own * grey + mean * grey.mean(dim=(2, 3), keepdim=True)
        images = _where(turns[place], turned(images, shifts), blended.clamp(0.0, 1.0))
    return images if grayscale_first else _where(gray, photometric.grayscale(images), images)


def turned(images: Tensor, shifts: Tensor) -> Tensor:
    """`photometric.adjust_hue` as one expression."""
    red, green, blue = images.unbind(dim=1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    below_red, below_green, below_blue = ((value - plane) / chroma.clamp(min=1e-12) for plane in (red, green, blue))
    by_green, by_blue = 2.0 + below_red - below_blue, 4.0 + below_green - below_red
    sixths = torch.where(red == value, below_blue - below_green, torch.where(green == value, by_green, by_blue))
    hue = sixths + 6.0 * shifts.view(-1, 1, 1)
    hue = hue - 6.0 * torch.floor(hue / 6.0)
    far_red, far_green, far_blue = (chroma * (hue - place).abs().clamp(1.0, 2.0) for place in (3.0, 2.0, 4.0))
    top = value + chroma
    return torch.stack([far_red + value - 2.0 * chroma, top - far_green, top - far_blue], dim=1)


def normalized(images: Tensor, solarize: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Solarize the chosen images, (N,) bool, then normalise each channel by `mean` and `std`, (3,); channels-last."""
    bright = _where(solarize, photometric.solarize(images), images)
    return ((bright - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).contiguous(memory_format=torch.channels_last)


def _where(chosen: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, 1, 1, 1), then, otherwise)


@functools.cache
def compiled() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """`colours` and `normalized`, translated for the one shape that a run has."""
    first, last = (torch.compile(part, dynamic=False, fullgraph=True) for part in (colours, normalized))
    return first, last
