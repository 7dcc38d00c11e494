"""Photometric operations on a batch, on its device, with one draw for each sample.

torchvision draws one parameter for a whole batch, which would tie the samples of a contrastive batch together; here
every function takes one parameter a sample. Definitions and clamping are those of torchvision's functional operations
on float images in [0, 1]; tests compare each with it. A trailing underscore: the images are changed in place.

N: images   C: channels   H, W: height and width
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it


def luma(images: Tensor) -> Tensor:
    """Grey values, (N, 1, H, W)."""
    red, green, blue = images.unbind(dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze_(1)


def blend_(images: Tensor, scale: Tensor, grey_share: Tensor, mean_share: Tensor) -> Tensor:
    """scale * image + grey_share * grey image + mean_share * its mean, cut off at 0 and 1. Shares: (N,).

    Brightness is this with shares (f, 0, 0), contrast with (f, 0, 1 - f), saturation with (f, 1 - f, 0), so that one
    pass serves samples that are at different operations.
    """
    grey_N1HW = luma(images)
    mean_N111 = grey_N1HW.mean(dim=(2, 3), keepdim=True).mul_(mean_share.view(-1, 1, 1, 1))
    offset_N1HW = grey_N1HW.mul_(grey_share.view(-1, 1, 1, 1)).add_(mean_N111)
    return images.mul_(scale.view(-1, 1, 1, 1)).add_(offset_N1HW).clamp_(0.0, 1.0)


def adjust_hue_(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn hues by these shares of the colour circle, -0.5 to 0.5; value and saturation stay. Shifts: (N,).

    Few passes over the planes and no masks, which are slow on a CPU.
    """
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = torch.minimum(torch.minimum(red, green), blue).neg_().add_(value)
    scale = chroma.clamp(min=1e-12).reciprocal_()
    below_red, below_green, below_blue = value - red, value - green, value - blue
    not_red, not_green = below_red.sign(), below_green.sign()  # 0 where the channel is the largest, else 1
    for below in (below_red, below_green, below_blue):
        below *= scale
    # Hue in sixths of the circle, counted from red, by the largest channel: red, else green, else blue.
    by_green, by_blue = (below_red - below_blue).add_(2.0), (below_green - below_red).add_(4.0)
    hue = torch.lerp(below_blue.sub_(below_green), by_green.lerp_(by_blue, not_green), not_red)
    hue += (shifts * 6.0).view(-1, 1, 1)
    hue.sub_(torch.floor(hue * (1.0 / 6.0)), alpha=6.0)  # back to 0..6
    # A channel is full within one sixth of its own place, empty beyond two; for red, the opposite place is nearer.
    places = _constants((3.0, 2.0, 4.0), images).view(1, 3, 1, 1)
    torch.sub(hue.unsqueeze(1), places, out=images).abs_().clamp_(1.0, 2.0).mul_(chroma.unsqueeze(1))
    red += value.sub(chroma, alpha=2.0)
    top = value.add_(chroma)
    torch.sub(top, green, out=green)
    torch.sub(top, blue, out=blue)
    return images


def grayscale(images: Tensor) -> Tensor:
    """Grey values in all three channels."""
    return luma(images).expand_as(images)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Gaussian of each sample's own sigma in pixels, borders reflected, not cut off. Sigmas: (N,), above 0.

    Each axis is one matrix product: for the small sigmas and images of this field faster than convolution, and a
    sample's result does not depend on the widest sigma of its batch.
    """
    count, channels, height, width = images.shape
    columns_NWW = _blur_matrices(sigmas, width)
    rows_NHH = columns_NWW if height == width else _blur_matrices(sigmas, height)
    flat = torch.bmm(images.reshape(count, channels * height, width), columns_NWW.transpose(1, 2))
    return torch.matmul(rows_NHH[:, None], flat.view(count, channels, height, width))


def _blur_matrices(sigmas: Tensor, size: int) -> Tensor:
    """Gaussian weights from pixel to pixel with one reflection at either border, (N, size, size), rows summing to 1.

    A weight depends on a distance alone: that of the pixels, i - j, or by way of a border, i + j or
    2 (size - 1) - i - j, with i and j counted from 0. Each of the three is a view on the weights by distance, in which
    a step to the next row moves by one; gathering them pixel by pixel takes five times as long.
    """
    count, length = len(sigmas), 2 * size - 1
    distances = torch.arange(length, device=sigmas.device, dtype=sigmas.dtype)
    # Below exp(-60) a weight is nothing to its row, and numbers that small are slow to compute with.
    weights_NL = (distances.square() * (-0.5 / sigmas.square())[:, None]).clamp_(min=-60.0).exp_()
    # size - 1, ..., 1, 0, 1, ..., size - 1 once for each row; the row stride is one short, so that rows shift.
    both_ways_NL = torch.cat([weights_NL[:, 1:size].flip(1), weights_NL[:, :size]], dim=1)
    shifting = both_ways_NL.repeat(1, size).as_strided((count, size, size), (length * size, length - 1, 1), size - 1)
    matrices_NSS = shifting.clone(memory_format=torch.contiguous_format)
    reflected = (count, size, size - 1), (length, 1, 1)
    matrices_NSS[:, :, 1:] += weights_NL.as_strided(*reflected, 1)  # the border pixel itself has no reflection
    matrices_NSS[:, :, :-1] += weights_NL.flip(1).as_strided(*reflected, 0)
    return matrices_NSS.div_(matrices_NSS.sum(dim=2, keepdim=True))


def adjust_channels(images: Tensor, brightness: Tensor, contrast: Tensor, contrast_first: bool) -> Tensor:
    """Brightness and contrast of each channel by its own factor, cut off at 0 and 1 after each. Factors: (N, C).

    What colour jitter is for channels that are not red, green and blue: contrast is about the channel's own mean.
    """
    scale_NC11, spread_NC11 = brightness[..., None, None], contrast[..., None, None]
    for contrasting in (contrast_first, not contrast_first):
        if contrasting:
            mean_NC11 = images.mean(dim=(2, 3), keepdim=True)
            images = mean_NC11.lerp(images, spread_NC11).clamp_(0.0, 1.0)
        else:
            images = (images * scale_NC11).clamp_(0.0, 1.0)
    return images


def solarize(images: Tensor) -> Tensor:
    """Invert every channel value at or above 0.5."""
    return torch.where(images >= 0.5, 1.0 - images, images)


def normalize_(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(image - mean) / std for each channel."""
    mean_C11, std_C11 = _constants(mean, images).view(-1, 1, 1), _constants(std, images).view(-1, 1, 1)
    return images.sub_(mean_C11).div_(std_C11)


def _constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Made here and sent after: a tensor that is made on a GPU from numbers makes the CPU wait for all of its work."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
