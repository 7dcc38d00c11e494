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
    y_N, x_N = torch.randint(places, (2, samples), device=frames_NCSS.device)
    return (_cut_at_once if frames_NCSS.is_cuda else _cut_each)(frames_NCSS, side, y_N, x_N)


def _cut_at_once(frames_NCSS: Tensor, side: int, y_N: Tensor, x_N: Tensor) -> Tensor:
    windows_NCYXss = frames_NCSS.unfold(2, side, 1).unfold(3, side, 1)  # a view: nothing is copied yet
    return windows_NCYXss[torch.arange(len(y_N), device=y_N.device), :, y_N, x_N]


def _cut_each(frames_NCSS: Tensor, side: int, y_N: Tensor, x_N: Tensor) -> Tensor:
    """As `_cut_at_once`, in a third of its time on a CPU."""
    starts = zip(y_N.tolist(), x_N.tolist(), strict=True)
    return torch.stack([f[:, y : y + side, x : x + side] for f, (y, x) in zip(frames_NCSS, starts, strict=True)])


def center_crop(frames_NCSS: Tensor, side: int) -> Tensor:
    """The middle of each sample, (N, C, s, s); what has that size already stays."""
    start = (frames_NCSS.shape[-1] - side) // 2
    return frames_NCSS[..., start : start + side, start : start + side]


def scaled(frames_NCSS: Tensor) -> Tensor:
    """uint8 to 0..1, in the memory format of the convolutions."""
    return frames_NCSS.to(torch.float32, memory_format=torch.channels_last).div_(255)
