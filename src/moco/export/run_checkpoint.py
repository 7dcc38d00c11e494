"""The backbone in a checkpoint of ours, also of a run that was killed: its tensors, and what its run's folder says."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from moco.data.preprocess import Preprocessing
from moco.data.views import NORMALIZATIONS
from moco.errors import RunError
from moco.export.reading import read_content
from moco.recipes import read_config

PREFIX, HEAD = "encoder_q.backbone.", "encoder_q.head."


def read_checkpoint(file: Path, folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """f_q's backbone, and the header that its backbone.safetensors would have.

    Args:
        file: checkpoints/last.pt.
        folder: the run's, with config.yaml.

    Raises:
        RunError: no checkpoint of ours, unreadable, or without its run's configuration.
    """
    content = read_content(file)
    model = content.get("model") if isinstance(content, dict) and "progression" in content else None
    if not isinstance(model, dict) or not any(name.startswith(PREFIX) for name in model):
        raise RunError(f"{file} is no checkpoint of a moco run: make a run of it with moco import {file}")
    tensors = {name.removeprefix(PREFIX): value for name, value in model.items() if name.startswith(PREFIX)}
    head_inputs = [value.shape[1] for name, value in model.items() if name.startswith(HEAD) and value.ndim == 2]
    if not head_inputs:
        raise RunError(f"{file} holds no head, whose inputs are the features: take backbone.safetensors of its run")
    if not (folder / "config.yaml").is_file():
        raise RunError(f"{file} does not say what it holds, and there is no {folder / 'config.yaml'}: name its run")
    config, _ = read_config(folder / "config.yaml")
    preprocessing = Preprocessing(config.image_size, *NORMALIZATIONS[config.normalization])
    return tensors, {
        "architecture": config.backbone,
        "stem": config.stem,
        "image_size": str(config.image_size),
        "feature_dim": str(head_inputs[0]),
        "preprocessing": json.dumps(preprocessing.as_dict()),
    }
