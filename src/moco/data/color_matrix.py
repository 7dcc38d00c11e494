"""Colour jitter, grey and normalisation as one matrix a sample: fewer passes over the pixels, nearly the same views.

Brightness, contrast, saturation and grey are linear in the pixel and in the image's mean colour, and so is the hue when
it is turned in YIQ instead of HSV. Whatever their order, they compose to x -> A x + B m with 3 x 3 matrices A and B for
each sample, m being its mean colour. Two differences from torchvision's definitions, which `photometric.py` has: values
are cut off at 0 and 1 once, at the end, and not after each operation; and the hue keeps luma and chroma (YIQ) instead
of value and saturation (HSV): on random colours 0.05 off, of 1, for a turn of up to a tenth of the circle.

N: images   H, W: height and width
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moco.data.photometric import LUMA

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # numbers of the operations in an order
# RGB -> YIQ (NTSC 1953); the first row is luma.
YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def hue_matrices(shifts: Tensor) -> Tensor:
    """Turn of the chroma plane by a share of the circle, (N, 3, 3). Shifts: (N,), -0.5 to 0.5, as in HSV."""
    to_yiq = torch.tensor(YIQ, dtype=torch.float64)
    angles = -2.0 * math.pi * shifts.double()  # YIQ counts the circle the other way round
    turn = torch.eye(3, dtype=torch.float64).repeat(len(shifts), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angles.cos()
    turn[:, 2, 1] = angles.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    turned: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return turned.float()


def jitter_matrices(order: Tensor, factors: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """A and B, each (N, 3, 3), of the four operations in each sample's own order; A = 1, B = 0 where not chosen.

    Args:
        order: (N, 4) numbers of the operations, a permutation in each row.
        factors: (N, 4) parameters by operation, not by place.
        chosen: (N,) bool.
    """
    count = len(order)
    identity, grey = torch.eye(3), torch.tensor(LUMA).expand(3, 3)
    factors = torch.where(chosen[:, None], factors, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    linear = torch.empty(count, 4, 3, 3)
    for number in (BRIGHTNESS, CONTRAST, SATURATION):
        linear[:, number] = factors[:, number, None, None] * identity
    linear[:, SATURATION] += (1.0 - factors[:, SATURATION, None, None]) * grey
    linear[:, HUE] = hue_matrices(factors[:, HUE])
    to_mean = torch.zeros(count, 4)
    to_mean[:, CONTRAST] = 1.0 - factors[:, CONTRAST]
    pixel, mean = identity.repeat(count, 1, 1), torch.zeros(count, 3, 3)
    rows = torch.arange(count)
    for place in range(4):
        operation = order[:, place]
        step, share = linear[rows, operation], to_mean[rows, operation][:, None, None]
        mean = step @ mean + share * (grey @ (pixel + mean))
        pixel = step @ pixel
    return pixel, mean


def grey_matrices(chosen: Tensor) -> Tensor:
    """(N, 3, 3): the grey value in all channels where chosen, else the identity."""
    return torch.where(chosen[:, None, None], torch.tensor(LUMA).expand(3, 3), torch.eye(3))


def transform(images: Tensor, pixel: Tensor, mean: Tensor, offset: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """A x + B m + offset for every pixel x of each image and its mean colour m, cut off at the bounds.

    Args:
        images: (N, 3, H, W) float.
        pixel, mean: A and B, (N, 3, 3).
        offset: (3,).
        bounds: lowest and highest values, each (3,).
    """
    flat = images.flatten(2)
    shift = torch.baddbmm(offset[:, None], mean, flat.mean(dim=2, keepdim=True))
    result = torch.baddbmm(shift, pixel, flat)
    low, high = (bound[:, None] for bound in bounds)
    return torch.clamp(result, low, high, out=result).view_as(images)
