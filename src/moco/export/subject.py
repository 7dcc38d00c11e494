"""What is exported: a trained backbone and, where the run has one, its checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from moco.encoder.stem import STANDARD
from moco.export.load import Pretrained
from moco.export.resnet_names import RESNETS, ResNet
from moco.sizes import size_text


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained backbone with what belongs to it.

    Attributes:
        model: the backbone, in eval mode, on the CPU.
        checkpoint: both encoders and the queue, as `moco.contrast.MoCo` names them; None where there is none.
        epoch: passes over the images at the checkpoint.
    """

    model: Pretrained
    checkpoint: Mapping[str, Tensor] | None = None
    epoch: int = 0

    @property
    def name(self) -> str:
        """The architecture without its library."""
        return self.model.architecture.rpartition("/")[2]

    @property
    def library(self) -> str:
        """torchvision, timm, v3, module, or nothing for ours and for functions of the user's."""
        return self.model.architecture.rpartition("/")[0]

    @property
    def resnet(self) -> ResNet | None:
        """Which ResNet it is, under the tensor names that torchvision and timm share; None for others."""
        return RESNETS.get(self.name) if self.library in ("torchvision", "timm") else None

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names, each laid out in memory in its own order."""
        return {name: value.detach().contiguous() for name, value in self.model.backbone.state_dict().items()}

    def stem_refusal(self) -> str | None:
        """Why a target that only has the standard stem cannot take these weights; None if it can."""
        if self.model.stem == STANDARD:
            return None
        name = f"{self.model.architecture} learnt at {size_text(self.model.image_size)} px"
        return f"it has no stem {self.model.stem}, with which {name} (pretrain with --stem standard for it)"
