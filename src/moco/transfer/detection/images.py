"""From annotated images to what a detector learns from and is tested on.

C, H, W: channels, height, width   M: objects of an image   K: keypoints
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from moco.data.decode import read_pixels
from moco.data.order import VIEWS, Sample, keyed_generator
from moco.data.preprocess import by_pillow
from moco.errors import DataError
from moco.transfer.annotations import AnnotatedImage, Instance
from moco.transfer.annotations.masks import mask_of
from moco.transfer.networks.dense_targets import surface_target

Target = dict[str, Tensor]
Batch = tuple[list[Tensor], list[Target]]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How an image becomes a tensor.

    Attributes:
        channels: C.
        longest: the longer side has at most so many pixels.
        masks: whether targets have masks.
        mirrored: for each keypoint that which it becomes in the mirrored image; None: targets have no keypoints.
        surface: whether targets have points of the body's surface.
    """

    channels: int
    longest: int
    masks: bool = False
    mirrored: tuple[int, ...] | None = None
    surface: bool = False

    def tensor(self, image: AnnotatedImage, side: int) -> Tensor:
        """(C, H, W) float32 in 0 to 1, the shorter side resized to `side`, bilinear and antialiased.

        Raises:
            DataError: the file cannot be read, or has another size than its annotations are of.
        """
        pixels = read_pixels(image.path, channels=self.channels)
        if pixels.shape[:2] != (image.height, image.width):
            raise DataError(
                f"{image.path} has {pixels.shape[1]}x{pixels.shape[0]} pixels upright, its annotations are of "
                f"{image.width}x{image.height}: correct the annotation file or the image's orientation"
            )
        height, width = self.size(image, side)
        if pixels.shape[:2] != (height, width):
            pixels = by_pillow(pixels, lambda whole: whole.resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).to(torch.float32).div_(255)

    def size(self, image: AnnotatedImage, side: int) -> tuple[int, int]:
        """Height and width after resizing."""
        short, long = sorted((image.height, image.width))
        scale = min(side / short, self.longest / long)
        return max(1, round(image.height * scale)), max(1, round(image.width * scale))

    def target(self, image: AnnotatedImage, size: tuple[int, int]) -> Target:
        """Boxes (M, 4), labels (M,), masks (M, H, W) uint8 and keypoints (M, K, 3) in an image of this size; without
        crowds, and without objects that lack what is learnt. The surface's: `moco.transfer.networks.dense_targets`.
        """
        kept = [instance for instance in image.instances if self.learnable(instance)]
        scale = np.array([size[1] / image.width, size[0] / image.height], dtype=np.float32)
        boxes = np.array([instance.box for instance in kept], dtype=np.float32).reshape(-1, 4) * np.tile(scale, 2)
        target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.tensor([instance.category for instance in kept], dtype=torch.int64),
        }
        if self.masks:
            shape = image.height, image.width
            drawn = [mask_of(each.outline, *shape, size=size) for each in kept if each.outline is not None]
            target["masks"] = torch.from_numpy(np.array(drawn, dtype=np.uint8).reshape(-1, *size))
        if self.mirrored is not None:
            points = np.array([each.keypoints for each in kept], dtype=np.float32).reshape(-1, len(self.mirrored), 3)
            points[..., :2] *= scale
            target["keypoints"] = torch.from_numpy(points)
        if self.surface:
            target |= surface_target([each.surface for each in kept], scale)
        return target

    def learnable(self, instance: Instance) -> bool:
        """Whether training takes this object."""
        pointed = self.mirrored is None or (
            instance.keypoints is not None and bool((instance.keypoints[:, 2] > 0).any())
        )
        return not instance.crowd and pointed and (not self.masks or instance.outline is not None)


class TrainImages(Dataset[Any]):
    """Images with their targets, each at a random size and half of them mirrored.

    With surfaces none is mirrored: where U and V of a part lie on its partner follows from no formula.

    Args:
        images: all of them.
        reading: how they become tensors.
        sides: shorter sides, of which each image draws one.
        seed: of the draws, which follow from it and the sample's step and position alone.
    """

    def __init__(self, images: Sequence[AnnotatedImage], reading: Reading, sides: Sequence[int], *, seed: int) -> None:
        self.images, self.reading, self.sides, self.seed = images, reading, tuple(sides), seed

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Target]:
        image = self.images[sample.image]
        generator = keyed_generator(self.seed, VIEWS, sample.step, sample.position)
        drawn, mirror = torch.rand(2, generator=generator).tolist()
        pixels = self.reading.tensor(image, self.sides[int(drawn * len(self.sides))])
        try:
            target = self.reading.target(image, (pixels.shape[1], pixels.shape[2]))
        except DataError as error:
            raise DataError(f"{image.path.name}: {error}") from error
        if mirror < 0.5 and not self.reading.surface:
            return mirrored(pixels, target, self.reading.mirrored)
        return pixels, target


class TestImages(Dataset[Any]):
    """Images alone, at one size, in their order."""

    def __init__(self, images: Sequence[AnnotatedImage], reading: Reading, side: int) -> None:
        self.images, self.reading, self.side = images, reading, side

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.reading.tensor(self.images[index], self.side)


def mirrored(pixels: Tensor, target: Target, partners: Sequence[int] | None) -> tuple[Tensor, Target]:
    """Image and target with left and right exchanged; `partners` are the keypoints that change places."""
    width, changed = pixels.shape[2], dict(target)
    left, top, right, bottom = target["boxes"].unbind(1)
    changed["boxes"] = torch.stack([width - right, top, width - left, bottom], dim=1)
    if "masks" in target:
        changed["masks"] = target["masks"].flip(2)
    if "keypoints" in target and partners is not None:
        points = target["keypoints"][:, list(partners)].clone()
        points[..., 0] = torch.where(points[..., 2] > 0, width - points[..., 0], points[..., 0])
        changed["keypoints"] = points
    return pixels.flip(2), changed


def collated(samples: list[tuple[Tensor, Target]]) -> Batch:
    """Images differ in size, so a batch is two lists."""
    return [image for image, _ in samples], [target for _, target in samples]
