"""The augmentation: where in its frames a sample is looked at.

N: samples   C: channels   S: side of a frame   s: side of a crop
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_crop(frames_NCSS: Tensor, side: int, *, last_offset: bool = True) -> Tensor:
    """A random window of each sample, the same one in all its channels, (N, C, s, s).

    `last_offset=False` leaves out the last place along each axis, as the authors' code does.
    """
    samples, _, size, _ = frames_NCSS.shape
    places = size - side + bool(last_offset)
    windows_NCYXss = frames_NCSS.unfold(2, side, 1).unfold(3, side, 1)  # a view: nothing is copied yet
    y_N, x_N = torch.randint(places, (2, samples), device=frames_NCSS.device)
    return windows_NCYXss[torch.arange(samples, device=frames_NCSS.device), :, y_N, x_N]


def center_crop(frames_NCSS: Tensor, side: int) -> Tensor:
    """The middle of each sample, (N, C, s, s); what has that size already stays."""
    start = (frames_NCSS.shape[-1] - side) // 2
    return frames_NCSS[..., start : start + side, start : start + side]
