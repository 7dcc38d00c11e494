"""`moco ablate` and `moco.ablate`: a grid of pretraining runs, as tables and pictures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from moco.ablation.settings import make

if TYPE_CHECKING:
    from moco.ablation.report import Ablation


def ablate(
    study: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    **options: Any,
) -> Ablation:
    """Pretrain at every point of a grid and compare: ablation.md, ablation.json and a picture for each study in `out`.

    The same call goes on with what is not finished. Equal configurations are run once. A run that fails is reported as
    failed, and the others go on.

    Args:
        study: mechanism, momentum, batchnorm, temperature, queue or v2; several with commas; paper for the first two;
            None with `vary`.
        data: a folder of images, a .npy/.npz file, the name of a torchvision data set (downloaded), or None for the
            picture book. The runs are processes of their own, so arrays must be in a file.
        out: folder of the grid.
        options: recipe, options, vary, values, seeds, linear, jobs, minutes, ...; see
            `moco.ablation.settings.Settings`.

    Returns:
        an ablation: `print` shows its tables, `as_dict` gives plain data, `finished` says whether all runs have ended.

    Raises:
        ConfigError, DataError: bad input, or a folder begun with other options; no run has been started.
        RunError: a folder that cannot be used.
    """
    settings = make(study, data, out=out, **options)
    from moco.ablation.grid import Grid

    return Grid.prepare(settings).carry_out()
