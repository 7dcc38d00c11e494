"""`moco ablate` and `moco.ablate`: a grid of pretraining runs, as tables and pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moco.sweep.settings import Launcher, make

if TYPE_CHECKING:
    from moco.sweep.report import Ablation


def ablate(
    study: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    values: Mapping[str, Sequence[Any]] | Sequence[Any] | None = None,
    seeds: Sequence[int] = (0,),
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    linear: bool = True,
    jobs: int = 1,
    minutes: float | None = None,
    launcher: Launcher = "local",
    slurm: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
    command: str | None = None,
) -> Ablation:
    """Pretrain at every point of a grid and compare: ablation.md, ablation.json and a picture for each study in `out`.

    The same call goes on with what is not finished. Equal configurations are run once. A run that fails is reported as
    failed, and the others go on. Runs are processes of their own, which load your program's main module: a script
    calls this under `if __name__ == "__main__"`.

    Args:
        study: mechanism, momentum, batchnorm, temperature, queue or v2; several with commas; paper for the first two;
            None with `vary`.
        data: a folder of images, a .npy/.npz file, the name of a torchvision data set (downloaded), or None for the
            picture book.
        out: folder of the grid.
        values: of what the study varies, instead of its own; by name of the study where there are several.
        seeds: of each point.
        recipe: of all runs; None means v2 (picturebook for the embedded set).
        options: fields of `moco.Config` that differ from the recipe's in all runs.
        vary: instead of a study, values of fields of `moco.Config`; every combination is run.
        linear: fit a linear probe after each run, beside the kNN figure.
        jobs: runs side by side; on this machine they share the processor's cores.
        minutes: stop after so many, with checkpoints; the same call goes on.
        launcher: local (processes here) or slurm (jobs of a cluster; needs submitit).
        slurm: parameters of `submitit.AutoExecutor`, such as {"slurm_partition": "gpu", "gpus_per_node": 1}.
        dry_run: only plan and measure; nothing is written.
        retry_failed: try failed runs again.
        quiet: neither messages nor a progress bar.
        command: how the user called, for the record.

    Returns:
        an ablation: `print` shows its tables, `as_dict` gives plain data, `finished` says whether all runs have ended.

    Raises:
        ConfigError, DataError: bad input, or a folder begun with other options; no run has been started.
        RunError: a folder that cannot be used.
    """
    settings = make(**locals())
    from moco.commands.evaluate import evaluate
    from moco.commands.pretrain import pretrain
    from moco.sweep.grid import Grid
    from moco.sweep.job import Commands, join_run

    commands = Commands(pretrain, evaluate)
    if join_run(commands):  # this process is a further device's of one of the runs
        raise SystemExit(0)
    return Grid.prepare(settings, commands).carry_out()
