"""The backbone in a checkpoint of ours, also of a run that was killed: its tensors, and what its run's folder says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from moco.data.preprocess import Preprocessing
from moco.data.views import NORMALIZATIONS
from moco.errors import RunError
from moco.export.reading import read_content

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
    return tensors, {**_stated(folder / "config.yaml", file), "feature_dim": str(head_inputs[0])}


def _stated(config: Path, file: Path) -> dict[str, str]:
    try:
        stored: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        name, size, stem = str(stored["backbone"]), int(stored["image_size"]), str(stored["stem"])
        mean_and_std = NORMALIZATIONS[stored["normalization"]]
    except FileNotFoundError as error:
        raise RunError(
            f"{file} does not say what it holds, and there is no {config}: name the checkpoint in its run's folder"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{config} cannot be read ({str(error).splitlines()[0]}): restore it") from error
    return {
        "architecture": name,
        "stem": stem,
        "image_size": str(size),
        "preprocessing": json.dumps(Preprocessing(size, *mean_and_std).as_dict()),
    }
