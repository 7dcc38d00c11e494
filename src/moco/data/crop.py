"""Random resized crops: torchvision's distribution, one draw per sample, and the resampling as two matrix products.

N: images   C: channels   H, W: height and width of the images   S: side of the crop's result
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

RATIO = (3.0 / 4.0, 4.0 / 3.0)
ATTEMPTS = 10  # of torchvision's RandomResizedCrop, before it falls back to the centre


def sample_crops(
    heights: Tensor,
    widths: Tensor,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
    generator: torch.Generator,
) -> Tensor:
    """Boxes (top, left, height, width) in pixels, (N, 4) int64, one for each image of the stated sizes.

    Area uniform in `scale` (shares of the image), aspect ratio log-uniform in `ratio`; the first of ten attempts that
    fits, else the largest centre box of an allowed ratio. The distribution of torchvision's RandomResizedCrop.
    """
    heights, widths = heights.double()[:, None], widths.double()[:, None]
    draws = torch.rand(4, len(heights), ATTEMPTS, generator=generator, dtype=torch.float64)
    area = heights * widths * (scale[0] + (scale[1] - scale[0]) * draws[0])
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(log_low + (log_high - log_low) * draws[1])
    box_widths = torch.sqrt(area * aspect).round()
    box_heights = torch.sqrt(area / aspect).round()
    fits = (box_widths > 0) & (box_widths <= widths) & (box_heights > 0) & (box_heights <= heights)
    tops = (draws[2] * (heights - box_heights + 1)).floor()
    lefts = (draws[3] * (widths - box_widths + 1)).floor()
    boxes = torch.stack([tops, lefts, box_heights, box_widths], dim=-1)
    first = fits.double().argmax(dim=1)
    chosen = boxes[torch.arange(len(boxes)), first]
    return torch.where(fits.any(dim=1, keepdim=True), chosen, _centre_boxes(heights, widths, ratio)).long()


def _centre_boxes(heights: Tensor, widths: Tensor, ratio: tuple[float, float]) -> Tensor:
    image_ratio = widths / heights
    box_widths = torch.where(image_ratio > ratio[1], (heights * ratio[1]).round(), widths)
    box_heights = torch.where(image_ratio < ratio[0], (widths / ratio[0]).round(), heights)
    tops, lefts = ((heights - box_heights) / 2).floor(), ((widths - box_widths) / 2).floor()
    return torch.cat([tops, lefts, box_heights, box_widths], dim=1)


def resampling_weights(
    starts: Tensor, lengths: Tensor, *, source: int, target: int, mirror: Tensor | None = None
) -> Tensor:
    """Antialiased bilinear resampling of one axis as matrices, (N, target, source) float32, rows summing to 1.

    Row i holds what each source pixel gives to target pixel i: a triangle of half-width max(1, lengths / target)
    about the target pixel's centre, cut off at the crop's borders. The definition of Pillow's BILINEAR and of
    torchvision's resize with antialias.

    Args:
        starts: (N,) first source pixel of each crop.
        lengths: (N,) pixels of each crop.
        source: pixels of the images along this axis.
        target: pixels of the result.
        mirror: (N,) bool, whether the result runs backwards; None for none.
    """
    starts_N11, lengths_N11 = starts.float()[:, None, None], lengths.float()[:, None, None]
    step = lengths_N11 / target
    places = torch.arange(target, device=starts.device, dtype=torch.float32)[:, None] + 0.5
    if mirror is not None:
        places = torch.where(mirror[:, None, None], target - places, places)
    pixels = torch.arange(source, device=starts.device, dtype=torch.float32) + 0.5 - starts_N11
    weights = (pixels - places * step).abs_().mul_(-1.0 / step.clamp(min=1.0)).add_(1.0).clamp_(min=0.0)
    weights *= ((pixels > 0) & (pixels < lengths_N11)).to(weights.dtype)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def batched_resized_crop(images_NCHW: Tensor, boxes: Tensor, size: int, flip: Tensor) -> Tensor:
    """Crop, resize with antialiasing and mirror, (V * N, C, size, size) float32 in the input's range, view by view.

    Fastest for images that lie in memory as (N, H, W, C), as decoders leave them.

    Args:
        images_NCHW: uint8 or float images of one size, on any device.
        boxes: (V * N, 4) top, left, height, width in pixels: V crops of each image, crop v of image n at v * N + n.
        size: S, side of the result.
        flip: (V * N,) bool, whether to mirror left to right.
    """
    count, channels, height, width = images_NCHW.shape
    views = len(boxes) // count
    boxes, flip = (part.to(images_NCHW.device, non_blocking=True) for part in (boxes, flip))
    rows_MSH = resampling_weights(boxes[:, 0], boxes[:, 2], source=height, target=size)
    columns_MSW = resampling_weights(boxes[:, 1], boxes[:, 3], source=width, target=size, mirror=flip)
    # Both crops' rows in one product, so that the image is read and converted once.
    rows_NVSH = rows_MSH.view(views, count, size, height).transpose(0, 1).reshape(count, views * size, height)
    images_NHWC = images_NCHW.permute(0, 2, 3, 1).float().reshape(count, height, width * channels)
    low_NVSWC = torch.bmm(rows_NVSH, images_NHWC).view(count, views, size, width, channels)
    low_VNCSW = low_NVSWC.permute(1, 0, 4, 2, 3).reshape(views * count, channels * size, width)
    return torch.bmm(low_VNCSW, columns_MSW.transpose(1, 2)).view(views * count, channels, size, size)


def resized_crop_image(image: Image.Image, box: Sequence[int], size: int, flip: bool) -> np.ndarray:
    """Crop, resize and mirror one image of its own size, (size, size, 3) uint8; releases the interpreter lock."""
    top, left, height, width = box
    small = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    if flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(small)
