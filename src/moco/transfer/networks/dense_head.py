"""The surface head of DensePose R-CNN (Güler et al., 1802.00434), chart-based: for each cell of a region whether the
person is there, which of 24 parts it shows, and for each part the place on its chart.

R: regions   S: cells a side   P: points   25: the parts and the background
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moco.transfer.annotations.surface import PARTS
from moco.transfer.networks.dense_targets import NO_POINT, SurfaceTruth, Target, joined, learnt_regions, region_truth

POOLED, CELLS = 14, 56  # cells a side that come in and go out: the paper's
# Channels of the answer: background or person; the background and the parts; for these U, and V.
CHANNELS = [2, PARTS + 1, PARTS + 1, PARTS + 1]
# Of the silhouette, the parts, U and V: detectron2's densepose_rcnn_R_50_FPN_s1x_legacy, for a learning rate of 0.002.
SILHOUETTE_WEIGHT, PART_WEIGHT, CHART_WEIGHT = 2.0, 0.3, 0.1
_CONVOLUTIONS = 8

Proposals = list[Tensor]


class SurfaceHead(nn.Module):
    """Eight 3x3 convolutions with ReLU, a transposed one that doubles the size, and a bilinear doubling.

    (R, `channels`, 14, 14) -> (R, 77, 56, 56), in the order of `CHANNELS`: logits, logits, U and V. Weights are drawn
    as in detectron2 (He, fan out), biases are 0.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(_CONVOLUTIONS):
            layers += [nn.Conv2d(width if number else channels, width, 3, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.answers = nn.ConvTranspose2d(width, sum(CHANNELS), 4, stride=2, padding=1)
        starts = [layer for layer in self.convolutions if isinstance(layer, nn.Conv2d)]
        for layer in (*starts, self.answers):
            assert layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        low = self.answers(self.convolutions(x))
        return functional.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)


class HeadsWithSurface(nn.Module):
    """A detector's box heads with the surface head: what takes the place of `roi_heads` in torchvision's models.

    Args:
        boxes: torchvision's RoIHeads.
        pool: regions of feature maps -> (R, C, 14, 14).
        surface: the head.
    """

    def __init__(self, boxes: nn.Module, pool: nn.Module, surface: SurfaceHead) -> None:
        super().__init__()
        self.boxes, self.pool, self.surface = boxes, pool, surface

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Proposals,
        shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, shapes, targets)
        answers, _ = self.boxes(features, proposals, shapes)
        regions = [answer["boxes"] for answer in answers]
        surfaces = torch.split(self.surface(self.pool(features, regions, shapes)), [len(each) for each in regions])
        for answer, surface in zip(answers, surfaces, strict=True):
            answer["surface"] = surface
        return answers, {}

    def _losses(
        self, features: dict[str, Tensor], proposals: Proposals, shapes: list[tuple[int, int]], targets: list[Target]
    ) -> dict[str, Tensor]:
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        boxes: Any = self.boxes
        proposals, matched, labels, regression = boxes.select_training_samples(proposals, targets)
        logits, offsets = boxes.box_predictor(boxes.box_head(boxes.box_roi_pool(features, proposals, shapes)))
        classifier, box = fastrcnn_loss(logits, offsets, labels, regression)
        regions, truths = [], []
        for region, match, label, target in zip(proposals, matched, labels, targets, strict=True):
            kept = (label > 0) & learnt_regions(region, match, target)
            regions.append(region[kept])
            truths.append(region_truth(region[kept], match[kept], target, CELLS) if len(target["boxes"]) else None)
        answers = self.surface(self.pool(features, regions, shapes))
        truth = joined([each for each in truths if each is not None]) if any(map(len, regions)) else None
        return {"loss_classifier": classifier, "loss_box_reg": box, **surface_losses(answers, truth)}


def surface_losses(answers: Tensor, truth: SurfaceTruth | None) -> dict[str, Tensor]:
    """Weighted losses: cross-entropy of the silhouettes (mean over all cells) and of the parts at the points (mean), in
    nats, and smooth L1 of U and of V of the point's own part (sum over the points, as in detectron2).

    Zero, with a gradient of zero, where no region learns (`truth` None) or no point lies in one.

    Args:
        answers: (R, 77, S, S).
        truth: of the same R regions.
    """
    names = ("loss_silhouette", "loss_part", "loss_u", "loss_v")
    if truth is None:
        return {name: 0 * answers.sum() for name in names}
    silhouette, part, u, v = torch.split(answers, CHANNELS, dim=1)
    pointed = truth.parts != NO_POINT
    own = truth.parts.clamp_min(0)[:, None]
    parts = functional.cross_entropy(at_points(part, truth.points), truth.parts, ignore_index=NO_POINT, reduction="sum")
    charts = []
    for maps, values in ((u, truth.uv[..., 0]), (v, truth.uv[..., 1])):
        said = at_points(maps, truth.points).gather(1, own)[:, 0]
        charts.append(functional.smooth_l1_loss(said[pointed], values[pointed], reduction="sum"))
    losses = (
        SILHOUETTE_WEIGHT * functional.cross_entropy(silhouette, truth.silhouettes),
        PART_WEIGHT * parts / pointed.sum().clamp_min(1),
        *(CHART_WEIGHT * chart for chart in charts),
    )
    return dict(zip(names, losses, strict=True))


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (R, C, S, S) at points (R, P, 2) in 0 to 1 over them: (R, C, P), bilinear between the cells' middles."""
    grid = 2 * points[:, :, None] - 1
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)[..., 0]


def read_surface(answers: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """What answers (R, 77, S, S) say at points (R, P, 2) in 0 to 1: parts (R, P), 0 for background, and uv (R, P, 2) in
    0 to 1 on that part's chart. A point outside the region is background.
    """
    silhouette, part, u, v = torch.split(at_points(answers, points.clamp(0, 1)), CHANNELS, dim=1)
    outside = ((points < 0) | (points > 1)).any(dim=2)
    parts = part.argmax(dim=1) * silhouette.argmax(dim=1)
    uv = torch.stack([maps.gather(1, parts[:, None])[:, 0] for maps in (u, v)], dim=2).clamp(0, 1)
    return parts.masked_fill(outside, 0), uv


def with_surface(model: nn.Module, levels: Sequence[str], channels: int) -> nn.Module:
    """torchvision's Faster R-CNN with the surface head, twice as wide as the pyramid's `channels`: 512 in the paper."""
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(list(levels), output_size=POOLED, sampling_ratio=2)
    model.roi_heads = HeadsWithSurface(model.get_submodule("roi_heads"), pool, SurfaceHead(channels, 2 * channels))
    return model
