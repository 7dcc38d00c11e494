"""Anchors in float32, whatever the feature maps are of.

torchvision makes them of the maps' type. In bf16, which has 8 significant bits, places from 256 pixels on would be
multiples of 2 and from 1,024 on of 8: training under autocast would have anchors that a test in float32 has not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def anchor_generator(sizes: tuple[tuple[float, ...], ...], ratios: tuple[tuple[float, ...], ...]) -> nn.Module:
    """torchvision's AnchorGenerator with anchors in float32.

    Args:
        sizes: of each feature map, in pixels.
        ratios: height over width, of each feature map.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    class ExactAnchors(AnchorGenerator):  # type: ignore[misc]
        """Sees the maps' sizes and device alone."""

        def forward(self, images: Any, maps: list[Tensor]) -> list[Tensor]:
            shapes = [each.new_empty(1, dtype=torch.float32).expand(1, 1, *each.shape[-2:]) for each in maps]
            found: list[Tensor] = super().forward(images, shapes)
            return found

    return ExactAnchors(sizes, ratios)
