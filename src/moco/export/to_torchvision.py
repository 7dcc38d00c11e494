"""torchvision: a .pth file {arch, state_dict, preprocessing} whose tensors fit the model but for the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from moco.encoder.backbone import torchvision_names
from moco.errors import RunError
from moco.export.proof import Reader
from moco.export.reading import first_few
from moco.export.subject import Subject
from moco.sizes import Size, height_width


def refusal(subject: Subject) -> str | None:
    """Why not: torchvision has no such model or no such stem."""
    if subject.library != "torchvision" and subject.resnet is None:
        return f"torchvision has no {subject.model.architecture}"
    if subject.name not in torchvision_names():
        return f"torchvision has no {subject.name}"
    return subject.stem_refusal()


def write(subject: Subject, path: Path) -> None:
    """Write the file; `torch.load(path, weights_only=True)` reads it."""
    torch.save({"arch": subject.name, "state_dict": subject.tensors(), **input_of(subject)}, path)


def input_of(subject: Subject) -> dict[str, Any]:
    """What images go in, for files that hold plain values beside tensors."""
    return {"preprocessing": subject.model.preprocess.as_dict(), "image_size": subject.model.image_size}


def read(path: Path) -> Reader:
    """Build torchvision's model, load with only the classifier missing, and take what the classifier is given."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    features = classifier_input(content["arch"], content["state_dict"], image_size=content["image_size"])
    return Reader(features, transform(content["preprocessing"]))


def transform(stated: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """The preprocessing that a file states, as its readers build it with torchvision: the code of docs/weights.md."""
    from torchvision import transforms

    size = stated["size"]

    def covering(image: Image.Image) -> Image.Image:
        scale = min(image.height / size[0], image.width / size[1])
        return image.resize((round(image.width / scale), round(image.height / scale)), Image.Resampling.BILINEAR)

    resize: Any = covering if isinstance(size, list | tuple) else transforms.Resize(size)
    steps = [resize, transforms.CenterCrop(size), transforms.ToTensor()]
    composed: Callable[[Image.Image], Tensor] = transforms.Compose(
        [*steps, transforms.Normalize(stated["mean"], stated["std"])]
    )
    return composed


def classifier_input(arch: str, state: dict[str, Tensor], *, image_size: Size) -> nn.Module:
    """torchvision's model without its last linear layer: images (N, 3, H, W) -> what that layer is given, (N, D).

    Raises:
        RunError: more or less than the classifier is missing.
    """
    import torchvision

    options: dict[str, Any] = {"image_size": image_size} if arch.startswith("vit_") else {}
    if arch.startswith("maxvit"):
        options = {"input_size": height_width(image_size)}
    elif arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    model: nn.Module = torchvision.models.get_model(arch, weights=None, **options).eval()
    name = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [*unexpected, *(set(missing) ^ {f"{name}.weight", f"{name}.bias"})]
    if wrong:
        raise RunError(f"torchvision's {arch} takes other tensors than the export has: {first_few(wrong)}")
    model.set_submodule(name, nn.Identity())
    return model
