"""A trained backbone as one safetensors file that says what it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from moco.version import __version__


def write_backbone(backbone: nn.Module, path: Path, *, metadata: dict[str, Any]) -> None:
    """Write parameters and buffers under their own library's names, whole or not at all.

    The file's header holds `metadata` (architecture, stem, feature_dim, preprocessing, ...), each value as JSON text,
    and `moco_version`. Reading it runs no code.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()}
    header = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={**header, "moco_version": __version__})
    os.replace(partial, path)
