"""Photometric operations on a batch, on its device, with one draw for each sample.

torchvision draws one parameter for a whole batch, which would tie the samples of a contrastive batch together; here
every function takes one parameter a sample. Definitions and clamping are those of torchvision's functional operations
on float images in [0, 1]; tests compare each with it.

N: images   H, W: height and width
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
BLUR_REACH = 3.0  # the Gaussian is cut off at this many sigmas


def luma(images: Tensor) -> Tensor:
    """Grey values, (N, 1, H, W)."""
    red, green, blue = images.unbind(dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze_(1)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with black: factor 0 black, 1 unchanged. Factors: (N,), at least 0."""
    return (images * factors.view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image's mean grey value: factor 0 uniform grey, 1 unchanged. Factors: (N,), at least 0."""
    mean = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return _blend(images, mean, factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the grey image: factor 0 grey, 1 unchanged. Factors: (N,), at least 0."""
    return _blend(images, luma(images), factors)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    factors = factors.view(-1, 1, 1, 1)
    return (images * factors).add_(other * (1.0 - factors)).clamp_(0.0, 1.0)


def adjust_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue in HSV by a share of the colour circle, -0.5 to 0.5; value and saturation stay. Shifts: (N,)."""
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp(min=1e-12).reciprocal_()
    # Hue in sixths of the circle, counted from red, in the sextant pair of the largest channel.
    hue = torch.where(value == green, (blue - red) * scale + 2.0, (red - green) * scale + 4.0)
    hue = torch.where(value == red, (green - blue) * scale, hue)
    hue += shifts.view(-1, 1, 1) * 6.0
    out = torch.empty_like(images)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        position = (hue + offset).remainder_(6.0)
        distance = torch.minimum(position, 4.0 - position).clamp_(0.0, 1.0)
        torch.addcmul(value, distance, chroma, value=-1.0, out=out[:, channel])
    return out


def grayscale(images: Tensor) -> Tensor:
    """Grey values in all three channels."""
    return luma(images).expand_as(images)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Separable Gaussian of each sample's own sigma in pixels, borders reflected. Sigmas: (N,), above 0.

    The kernel reaches 3 sigma of the widest sample, or as far as reflection allows in a small image.
    """
    count, channels, height, width = images.shape
    reach = min(max(1, int(BLUR_REACH * float(sigmas.max()) + 0.5)), height - 1, width - 1)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernels = torch.exp(-0.5 * (offsets / sigmas.view(-1, 1)) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = functional.pad(images, [reach] * 4, mode="reflect").reshape(1, count * channels, height + 2 * reach, -1)
    flat = functional.conv2d(flat, kernels[:, None, None, :], groups=count * channels)
    flat = functional.conv2d(flat, kernels[:, None, :, None], groups=count * channels)
    return flat.view(count, channels, height, width)


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert every channel value at or above the threshold."""
    return torch.where(images >= threshold, 1.0 - images, images)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(image - mean) / std for each channel."""
    mean_C11 = torch.tensor(mean, device=images.device, dtype=images.dtype).view(-1, 1, 1)
    std_C11 = torch.tensor(std, device=images.device, dtype=images.dtype).view(-1, 1, 1)
    return (images - mean_C11).div_(std_C11)
