"""`moco evaluate` and `moco.evaluate`: did the pretraining help on these images?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from moco.comparison.settings import Settings, check_names

if TYPE_CHECKING:
    from moco.comparison.report import Report


def evaluate(model: str | os.PathLike[str], **options: Any) -> Report:
    """Measure a network on labelled images, beside random weights and training from scratch.

    Args:
        model: a run folder, a backbone.safetensors file, a run's checkpoints/last.pt, or the name of an architecture
            (with random weights).
        options: what to measure on which images; see `moco.comparison.settings.Settings`.

    Returns:
        a report: `print` shows a table, `as_dict` gives plain data, `value("knn_top1")` one figure.

    Raises:
        ConfigError: an unknown option, or one that cannot work.
        DataError: images or labels that cannot be used.
        RunError, ArchitectureError: weights that cannot be read, or of another architecture.
    """
    check_names(options)
    settings = Settings(**options)
    from moco.comparison.assess import assess

    return assess(model, settings)
