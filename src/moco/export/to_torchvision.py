"""torchvision: a .pth file {arch, state_dict, preprocessing} whose tensors fit the model but for the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.encoder.backbone import torchvision_names
from moco.errors import RunError
from moco.export.load import first_few
from moco.export.proof import Reader
from moco.export.subject import Subject


def refusal(subject: Subject) -> str | None:
    """Why not: torchvision has no such model or no such stem."""
    if subject.library != "torchvision" and subject.resnet is None:
        return f"torchvision has no {subject.model.architecture}"
    if subject.name not in torchvision_names():
        return f"torchvision has no {subject.name}"
    return subject.stem_refusal()


def write(subject: Subject, path: Path) -> None:
    """Write the file; `torch.load(path, weights_only=True)` reads it."""
    about = subject.about()
    content = {"arch": subject.name, "state_dict": subject.tensors(), "preprocessing": about["preprocessing"]}
    torch.save({**content, "image_size": about["image_size"]}, path)


def read(path: Path) -> Reader:
    """Build torchvision's model, load with only the classifier missing, and watch what the classifier is given."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return Reader(classifier_input(content["arch"], content["state_dict"], image_size=content["image_size"]))


class classifier_input:  # noqa: N801 - used as a function that keeps its model
    """Features of torchvision's model: images (N, 3, S, S) -> what its last linear layer is given, (N, D).

    Raises:
        RunError: more or less than the classifier is missing.
    """

    def __init__(self, arch: str, state: dict[str, Tensor], *, image_size: int) -> None:
        import torchvision

        options: dict[str, Any] = {"image_size": image_size} if arch.startswith("vit_") else {}
        if arch.startswith("maxvit"):
            options = {"input_size": (image_size, image_size)}
        elif arch in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": False}
        self._model = torchvision.models.get_model(arch, weights=None, **options)
        name, classifier = [(n, m) for n, m in self._model.named_modules() if isinstance(m, nn.Linear)][-1]
        missing, unexpected = self._model.load_state_dict(state, strict=False)
        wrong = [*unexpected, *(set(missing) ^ {f"{name}.weight", f"{name}.bias"})]
        if wrong:
            raise RunError(f"torchvision's {arch} takes other tensors than the export has: {first_few(wrong)}")
        self._given: list[Tensor] = []
        classifier.register_forward_pre_hook(lambda _, given: self._given.append(given[0]))
        self._model.eval()

    def __call__(self, images: Tensor) -> Tensor:
        self._given.clear()
        self._model(images)
        return self._given.pop()
