"""Which regions and anchors a detector learns from, drawn for each image by itself.

torchvision draws for one image after another from one generator, so that an image's draw depends on those before it in
the batch, and on several ranks on how the batch is split.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moco.contrast.collective import rank
from moco.data.order import ITEMS, keyed_seed

Drawn = tuple[list[Tensor], list[Tensor]]


def draw_by_image_(model: nn.Module) -> nn.Module:
    """Replace the samplers in torchvision's region proposals and heads; returns the model."""
    part: Any
    for part in model.modules():
        sampler = getattr(part, "fg_bg_sampler", None)
        if sampler is not None:
            part.fg_bg_sampler = _ByImage(sampler)
    return model


class _ByImage:
    """A sampler whose draws for an image follow from torch's global generator, which is left the same on all ranks, and
    the image's place in the whole batch.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __call__(self, matched: list[Tensor]) -> Drawn:
        base, first = int(torch.randint(2**62, ())), rank() * len(matched)
        before = torch.get_rng_state()
        positive: list[Tensor] = []
        negative: list[Tensor] = []
        for place, each in enumerate(matched, first):
            torch.manual_seed(keyed_seed(base, ITEMS, place))
            found = self.sampler([each])
            positive += found[0]
            negative += found[1]
        torch.set_rng_state(before)
        return positive, negative
