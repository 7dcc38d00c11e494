"""The fast linear probe on the images of a run's own kNN monitor: learnt on its bank, asked its held-out images."""

from __future__ import annotations

from typing import Any

import torch

from moco.data.fixed import normalized_batches
from moco.evaluation.features import extract_features
from moco.evaluation.logistic import fit_logistic
from moco.export.load import load
from moco.monitoring import BATCH, LabelledSet, Monitoring
from moco.training.run_folder import RunFolder

HOW = "logistic regression (L-BFGS) on standardised backbone features, penalty chosen on a fifth of the bank images"


def linear_probe(folder: RunFolder, monitoring: Monitoring, device: torch.device) -> dict[str, Any]:
    """Top-1 accuracy on the held-out images, 0 to 1, as "linear_top1", and whether the fit converged.

    Raises:
        DataError: features are not finite, or the bank shows one class only.
        RunError: the weights cannot be read.
    """
    module = load(folder.path, allow_factory=True).backbone.to(device)

    def features(part: LabelledSet) -> torch.Tensor:
        mean, std = monitoring.recipe.mean, monitoring.recipe.std
        return extract_features(module, normalized_batches(part.images, mean=mean, std=std, batch_size=BATCH))

    bank, queries = monitoring.bank, monitoring.queries
    classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    probe = fit_logistic(
        features(bank), torch.from_numpy(bank.labels), num_classes=classes, seed=monitoring.config.seed
    )
    right = probe(features(queries)).argmax(dim=1) == torch.from_numpy(queries.labels)
    return {"linear_top1": right.double().mean().item(), "linear_converged": probe.converged}
