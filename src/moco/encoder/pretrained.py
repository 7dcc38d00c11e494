"""torchvision's trained weights by name."""

from __future__ import annotations

from typing import Any

from moco.errors import ArchitectureError


def torchvision_weights(name: str) -> Any:
    """torchvision's choice among its trained weights of a classifier, a `torchvision.models.WeightsEnum`.

    Raises:
        ArchitectureError: it has none.
    """
    from torchvision.models import get_model_weights

    choices: Any = get_model_weights(name)
    if not len(choices):
        raise ArchitectureError(f"torchvision has no trained weights for {name}")
    return choices.DEFAULT


def torchvision_tensors(weights: Any, *, progress: bool = False) -> dict[str, Any]:
    """Their tensors by name, from the disk, else downloaded; the file's hash is checked, and no code of it is run."""
    state: dict[str, Any] = weights.get_state_dict(progress=progress, check_hash=True, weights_only=True)
    return state
