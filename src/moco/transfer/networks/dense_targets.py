"""What the surface head learns from: points of persons, and silhouettes, as tensors and on the grid of a region.

M: persons of an image   P: points, filled up with part -1   R: regions   S: cells a side of a region's grid
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from moco.transfer.annotations import Surface
from moco.transfer.annotations.masks import mask_of
from moco.transfer.annotations.surface import SIDE

NO_POINT = -1  # part of what only fills a row up
OVERLAP = 0.7  # of a region with its person, from which it learns surfaces: detectron2's FG_IOU_THRESHOLD

Target = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class SurfaceTruth:
    """Of R regions.

    Attributes:
        points: (R, P, 2), in 0 to 1 over the region.
        parts: (R, P) int64: 1 to 24, or -1 where there is no point or it lies outside the region.
        uv: (R, P, 2) in 0 to 1.
        silhouettes: (R, S, S) int64: 1 where the person is.
    """

    points: Tensor
    parts: Tensor
    uv: Tensor
    silhouettes: Tensor


def surface_target(surfaces: Sequence[Surface | None], scale: np.ndarray) -> Target:
    """Points (M, P, 2) and frames (M, 4) in pixels of the resized image, parts (M, P), uv (M, P, 2) and silhouettes
    (M, 256, 256) uint8; a person without a surface has no point.

    Args:
        surfaces: of the image's persons.
        scale: width and height of the resized image over those of the image.
    """
    count, most = len(surfaces), max([1, *(len(each.parts) for each in surfaces if each is not None)])
    target = {
        "points": torch.zeros(count, most, 2),
        "parts": torch.full((count, most), NO_POINT, dtype=torch.int64),
        "uv": torch.zeros(count, most, 2),
        "frames": torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1),
        "silhouettes": torch.zeros(count, SIDE, SIDE, dtype=torch.uint8),
    }
    for row, each in enumerate(surfaces):
        if each is None:
            continue
        points = len(each.parts)
        target["points"][row, :points] = torch.from_numpy((each.points * scale).astype(np.float32))
        target["parts"][row, :points] = torch.from_numpy(each.parts.astype(np.int64))
        target["uv"][row, :points] = torch.from_numpy(each.uv)
        target["frames"][row] = torch.tensor(each.frame) * torch.from_numpy(np.tile(scale, 2)).float()
        drawn = [mask_of(runs, SIDE, SIDE, size=(SIDE, SIDE)) for runs in each.silhouettes]
        target["silhouettes"][row] = torch.from_numpy(np.max(drawn, axis=0))
    return target


def learnt_regions(regions: Tensor, matched: Tensor, target: Target) -> Tensor:
    """Which of the regions (R, 4), each matched to a person, learn its surface: those near a person with points."""
    if not len(target["boxes"]):
        return torch.zeros(len(regions), dtype=torch.bool, device=regions.device)
    from torchvision.ops import box_iou

    annotated = (target["parts"] > 0).any(dim=1)[matched]
    overlaps: Tensor = box_iou(regions, target["boxes"]).gather(1, matched[:, None])[:, 0]
    return annotated & (overlaps >= OVERLAP)


def region_truth(regions: Tensor, matched: Tensor, target: Target, size: int) -> SurfaceTruth:
    """The persons' points and silhouettes over regions (R, 4) in the same pixels, S = `size`."""
    points, parts, uv, frames = (target[name][matched] for name in ("points", "parts", "uv", "frames"))
    corner, extent = regions[:, None, :2], (regions[:, None, 2:] - regions[:, None, :2])
    points = (points - corner) / extent
    outside = ((points < 0) | (points > 1)).any(dim=2)
    silhouettes = silhouettes_in(regions, frames, target["silhouettes"][matched], size)
    return SurfaceTruth(points.clamp(0, 1), parts.masked_fill(outside, NO_POINT), uv, silhouettes)


def joined(truths: Sequence[SurfaceTruth]) -> SurfaceTruth:
    """Those of several images as one; rows are filled up to the longest."""
    most = max(each.parts.shape[1] for each in truths)

    def filled(values: Tensor, value: float) -> Tensor:
        room = most - values.shape[1]
        return functional.pad(values, (0, 0) * (values.dim() - 2) + (0, room), value=value)

    return SurfaceTruth(
        torch.cat([filled(each.points, 0) for each in truths]),
        torch.cat([filled(each.parts, NO_POINT) for each in truths]),
        torch.cat([filled(each.uv, 0) for each in truths]),
        torch.cat([each.silhouettes for each in truths]),
    )


def silhouettes_in(regions: Tensor, frames: Tensor, silhouettes: Tensor, size: int) -> Tensor:
    """Silhouettes (R, 256, 256) over their frames (R, 4) at the middles of the cells of regions (R, 4): (R, S, S) int64
    of the nearest value, 0 outside the frame.
    """
    steps = (torch.arange(size, device=regions.device) + 0.5) / size
    extent = regions[:, 2:] - regions[:, :2]
    places = regions[:, None, :2] + steps[None, :, None] * extent[:, None]  # (R, S, 2): x and y of columns and rows
    normed = 2 * (places - frames[:, None, :2]) / (frames[:, None, 2:] - frames[:, None, :2]) - 1
    x, y = normed[:, None, :, 0].expand(-1, size, -1), normed[:, :, None, 1].expand(-1, -1, size)
    grid = torch.stack([x, y], dim=3)
    values = functional.grid_sample(silhouettes[:, None].float(), grid, mode="nearest", align_corners=False)
    return values[:, 0].round().long()
