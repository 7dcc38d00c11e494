"""`moco evaluate` and `moco.evaluate`: did the pretraining help on these images?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moco.comparison.settings import Baselines, Probe, Protocol, Search, Settings

if TYPE_CHECKING:
    from moco.comparison.report import Report

_DEFAULTS = Settings()


def evaluate(
    model: str | os.PathLike[str],
    *,
    train: str | Any = None,
    test: str | Any = None,
    labels: str | None = None,
    protocol: Protocol = _DEFAULTS.protocol,
    held_out: float = _DEFAULTS.held_out,
    num_neighbors: int = _DEFAULTS.num_neighbors,
    knn_temperature: float = _DEFAULTS.knn_temperature,
    search: Search = _DEFAULTS.search,
    probe: Probe = _DEFAULTS.probe,
    probe_epochs: int = _DEFAULTS.probe_epochs,
    learning_rates: Sequence[float] = _DEFAULTS.learning_rates,
    label_fractions: Sequence[float] = _DEFAULTS.label_fractions,
    epochs: int | None = None,
    baselines: Baselines = _DEFAULTS.baselines,
    scratch_minutes: float = _DEFAULTS.scratch_minutes,
    download: bool = False,
    image_size: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    device: str = _DEFAULTS.device,
    allow_factory: bool = False,
    data_root: str | None = None,
    quiet: bool = False,
) -> Report:
    """Measure a network on labelled images, beside random weights and training from scratch.

    Args:
        model: a run folder, a backbone.safetensors file, or the name of an architecture (with random weights).
        train: images to learn from: a folder of class folders, a .npz file, the name of a torchvision data set
            (downloaded), or nothing for the picture book; in Python also an array or a source.
        test: images to be asked, likewise; without it the data's own test part, else a part of the train images.
        labels: CSV file path,label, for train and test images; with a column labels (a|b) an image may have several.
        protocol: knn, linear, finetune, or scores (which needs no labels).
        held_out: share of the train images that is asked where there are no test images.
        num_neighbors: k of kNN.
        knn_temperature: kNN votes are weighted by exp(similarity / knn_temperature).
        search: blocks, or faiss (pip install faiss-cpu) for very many images.
        probe: fast (logistic regression on features), paper (SGD over random crops) or both.
        probe_epochs: epochs of the paper's probe.
        learning_rates: of the paper's probe; the best of several is chosen on a fifth of the train images.
        label_fractions: shares of the labels to fine-tune on, with the same number of images in every class.
        epochs: of fine-tuning and of training from scratch; by default 20, more where that is under 300 steps.
        baselines: auto (random weights, from scratch if it is quick, ImageNet weights if on the disk), all (from
            scratch at any cost), random or none.
        scratch_minutes: the longest that auto trains from scratch, over all seeds.
        download: whether ImageNet weights may be fetched.
        image_size: side of the images in pixels; by default the run's.
        seed: every random draw follows from it.
        seeds: how many seeds, from `seed` on, for all that is drawn.
        device: auto, cpu, cuda, ...
        allow_factory: whether weights may name a function of yours that builds their network.
        data_root: where named data sets are stored; null means ~/.cache/moco.
        quiet: no progress bars.

    Returns:
        a report: `print` shows a table, `as_dict` gives plain data, `value("knn_top1")` one figure.

    Raises:
        ConfigError: an option that cannot work.
        DataError: images or labels that cannot be used.
        RunError, ArchitectureError: weights that cannot be read, or of another architecture.
    """
    options = {name: value for name, value in locals().items() if name != "model"}
    settings = Settings(**options)
    from moco.comparison.assess import assess

    return assess(model, settings)
