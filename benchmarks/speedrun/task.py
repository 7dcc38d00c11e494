"""What an entry is given: its function `train` takes a `Task` and returns a trained module."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.encoder import Backbone, build_backbone


class AbsentError(Exception):
    """An entry that cannot run here: a library or a recipe is missing, or the track is not for it. It is skipped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One run of an entry.

    Attributes:
        track: its name.
        images: folder of the training images, JPEG or PNG, without labels and in random order.
        epochs: length of the run: as many images are to be visited as in so many passes over the folder.
        image_size: side in pixels of what the module is judged on; views may have other sizes.
        backbone: name of the track's network, for `moco`; `network()` builds it.
        seed: of this run.
        rate: factor of the entry's own learning rate; 1 but in a search. An entry that has none refuses others.
        device: where it trains.
        bf16: whether the hardware multiplies bfloat16 natively; then all entries train in it.
        workers: processes that may make views.
        scratch: an empty folder for files of the run, which is removed after it.
    """

    track: str
    images: Path
    epochs: int
    image_size: int
    backbone: str
    seed: int
    rate: float
    device: torch.device
    bf16: bool
    workers: int
    scratch: Path

    def own_rate_only(self) -> None:
        """For entries whose learning rate is not theirs to change; raises AbsentError for a factor."""
        if self.rate != 1:
            raise AbsentError("its learning rate is not stated, so that there is none to multiply")

    def network(self) -> Backbone:
        """The track's network with random weights; `.module` is images (N, 3, H, W) -> features (N, `.feature_dim`)."""
        return build_backbone(self.backbone, image_size=self.image_size)


class Normalized(nn.Module):
    """From images in 0 to 1, as the judge gives them, to the features of a module that wants them normalised."""

    def __init__(self, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.module((images - self.mean) / self.std)
        return features
