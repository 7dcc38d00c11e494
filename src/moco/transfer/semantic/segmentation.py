"""Semantic segmentation as a task: the paper's dilated FCN on images with label maps, measured by mIoU.

N: images   H, W: height, width   K: classes
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moco.contrast.collective import all_gather_cat, rank, world_size
from moco.data.order import EpochOrder
from moco.data.workers import make_loader
from moco.errors import ConfigError
from moco.normalization import IMAGENET, Channels
from moco.transfer.label_maps.mean_iou import VOID, Confusion, scores
from moco.transfer.label_maps.reading import LabelMaps
from moco.transfer.networks.fcn import FCN
from moco.transfer.semantic.pairs import SCALES, TestPairs, TrainPairs

CROPS = {"VOC": 513, "Cityscapes": 769}  # pixels a side, appendix of 1911.05722
LEAST_CROP = 32
_SHOWN = 4  # images in a picture

Batch = tuple[Tensor, Tensor]


class SemanticSegmentation:
    """Pixels into classes; see `moco.transfer.fine_tuning.task.Task`.

    Args:
        train, test: images with label maps of the same classes.
        crop: side of the crops that are trained on, in pixels; the test is on whole images.
        batch_size: images an iteration.
        workers: processes that read images; 0 reads them in this one.
        mean, std: of the channels of images in 0 to 1; ImageNet's, as the paper has it.

    Raises:
        ConfigError: fewer train images than a batch has, or a crop of under 32 pixels.
    """

    name = "semantic-segmentation"
    main_score = "mIoU"

    def __init__(
        self,
        train: LabelMaps,
        test: LabelMaps,
        *,
        crop: int,
        batch_size: int,
        workers: int = 0,
        mean: Channels = IMAGENET[0],
        std: Channels = IMAGENET[1],
    ) -> None:
        if crop < LEAST_CROP:
            raise ConfigError(f"crop={crop}: need at least {LEAST_CROP} pixels")
        if not 2 <= batch_size <= len(train.pairs):
            raise ConfigError(f"batch_size={batch_size}: expected 2 to {len(train.pairs)}, the number of train images")
        self.train, self.test, self.crop, self.batch_size, self.workers = train, test, crop, batch_size, workers
        self.mean, self.std = mean, std
        self.notes = [*train.remarks, *test.remarks]

    def model(self, backbone: nn.Module) -> nn.Module:
        """The FCN around the backbone."""
        return FCN(backbone, len(self.train.classes))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats over the pixels that are not void; 0 where all are.

        The mean of the ranks' losses is that over the pixels of all ranks.
        """
        device = next(model.parameters()).device
        labels = batch[1].to(device, non_blocking=True).long()
        logits = model(self._normalized(batch[0], device))
        total = functional.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
        return total / all_gather_cat((labels != VOID).sum()[None]).float().mean().clamp_min(1)

    def batches(self, *, seed: int, start: int) -> Iterator[Batch]:
        """Random orders of all images, one after the other, each image cropped anew at a random scale."""
        share = {"rank": rank(), "world_size": world_size()}
        order = EpochOrder(np.arange(len(self.train.pairs)), batch_size=self.batch_size, seed=seed, **share)
        order.first_step = start
        red, green, blue = (round(255 * value) for value in self.mean)
        pairs = TrainPairs(self.train, crop=self.crop, fill=(red, green, blue), seed=seed)
        return iter(make_loader(pairs, order, workers=self.workers))

    @torch.no_grad()
    def answers(self, model: nn.Module, indices: list[int]) -> Iterator[Batch]:
        """What the model says of test images, at their own size, and the truth: (H, W) of classes each."""
        model.eval()
        device = next(model.parameters()).device
        loader = make_loader(TestPairs(self.test), [[index] for index in indices], workers=self.workers)
        for images, truth in loader:
            yield model(self._normalized(images, device)).argmax(dim=1)[0].cpu(), truth[0]

    def score(self, model: nn.Module) -> dict[str, float]:
        """mIoU, the share of right pixels, and IoU/class, in percent."""
        confusion = Confusion(len(self.train.classes))
        for said, truth in self.answers(model, list(range(len(self.test.pairs)))):
            confusion.add(said, truth)
        return scores(confusion, self.train.classes)

    def picture(self, models: dict[str, nn.Module], file: Path) -> None:
        """Some test images, their label maps, and what each model says of them: a row each."""
        from moco.transfer.semantic.picture import draw_label_maps

        indices = list(range(0, len(self.test.pairs), max(1, len(self.test.pairs) // _SHOWN)))[:_SHOWN]
        images = [self.test.pairs[index][0] for index in indices]
        rows = {"truth": [torch.from_numpy(self.test.truth(index)) for index in indices]}
        rows |= {label: [said for said, _ in self.answers(model, indices)] for label, model in models.items()}
        draw_label_maps(images, rows, self.train.classes, file)

    def settings(self) -> dict[str, Any]:
        """The network, the crops and the data."""
        return {
            "task": self.name,
            "model": "FCN, last stage dilated by 2, two 3x3 convolutions of 256 channels dilated by 6",
            "crop": self.crop,
            "scales": list(SCALES),
            "normalization": [list(self.mean), list(self.std)],
            "batch_size": self.batch_size,
            "train": _counts(self.train),
            "test": _counts(self.test),
            "classes": list(self.train.classes),
        }

    def _normalized(self, images: Tensor, device: torch.device) -> Tensor:
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images.to(device, non_blocking=True).float() / 255 - mean) / std


def default_crop(maps: LabelMaps, image_size: int) -> int:
    """The paper's crop for its data sets; for others 513, at most `image_size`, the shorter side of an image."""
    return CROPS.get(maps.layout, max(LEAST_CROP, min(CROPS["VOC"], image_size)))


def _counts(maps: LabelMaps) -> dict[str, Any]:
    return {
        "source": maps.source,
        "layout": maps.layout,
        "images": len(maps.pairs),
        "void": maps.void,
        "left_out": list(maps.problems),
    }
