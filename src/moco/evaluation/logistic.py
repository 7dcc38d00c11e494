"""The fast linear probe: multinomial logistic regression on features that were extracted once.

scikit-learn's L-BFGS does the fits, each started from the weights of the stronger penalty before it: PyTorch's own took
almost four times as long for the same sweep (benchmarks/evaluation.py).

N: train rows   M: test rows   D: feature width   C: classes
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from moco.errors import DataError
from moco.evaluation.figures import figure

PENALTIES = tuple(float(value) for value in np.logspace(1, -6, 15))  # strong to weak: each fit starts from the last
_STEPS = 200  # of L-BFGS in one fit
_HELD_OUT = 0.2
Fit = Callable[[float], tuple[Tensor, Tensor, bool]]


@dataclasses.dataclass(frozen=True)
class LogisticProbe:
    """A fitted probe: (M, D) features to (M, C) logits.

    Attributes:
        mean, std: of the train features, (D,); features are standardised by them.
        weight: (C, D).
        bias: (C,).
        penalty: the chosen weight of |W|^2 / 2 beside the mean cross-entropy in nats.
        converged: False where the last fit ended at its number of steps.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float
    converged: bool

    def __call__(self, features_MD: Tensor) -> Tensor:
        """Logits, (M, C) float64."""
        return ((features_MD.double() - self.mean) / self.std) @ self.weight.T + self.bias


def fit_logistic(
    features_ND: Tensor,
    targets: Tensor,
    *,
    num_classes: int,
    seed: int,
    penalties: Iterable[float] = PENALTIES,
    show: Callable[[Iterable[float]], Iterable[float]] = iter,
) -> LogisticProbe:
    """Fit a probe, its penalty chosen on a fifth of the train rows, then fitted again on all of them.

    Features are standardised; the bias is not penalised. Of equally good penalties the strongest is taken.

    Args:
        targets, num_classes: (N,) integers in [0, C), or (N, C) of 0 and 1 for several labels (one fit for each class).
        seed: draws the held-out rows; each class with two rows or more gives some.
        penalties: tried from strong to weak.
        show: shows the progress of the sweep.

    Raises:
        DataError: features are not finite, or there are too few of them.
    """
    if not features_ND.isfinite().all():
        raise DataError("features hold NaN or infinite values: the network has diverged, or its input has")
    if len(targets) < 4:
        raise DataError(f"{len(targets)} images to learn from: need at least 4, of which some choose the penalty")
    held_out = held_out_rows(targets, seed)
    mean, std = features_ND.double().mean(dim=0), features_ND.double().std(dim=0, unbiased=False)
    std = torch.where(std > 1e-9 * std.max().clamp(min=1e-30), std, torch.ones_like(std))
    standard = ((features_ND.double() - mean) / std).float().numpy()
    fit = _fitter(standard[~held_out], targets[~held_out].numpy(), num_classes)
    best, chosen = -1.0, 0.0
    for penalty in show(sorted(penalties, reverse=True)):
        weight, bias, _ = fit(penalty)
        logits = torch.from_numpy(standard[held_out]).double() @ weight.T + bias
        found = np.nan_to_num(figure(logits if targets.ndim == 2 else logits.argmax(dim=1), targets[held_out]))
        if found > best:
            best, chosen = float(found), penalty
    weight, bias, converged = _fitter(standard, targets.numpy(), num_classes)(chosen)
    return LogisticProbe(mean, std, weight, bias, chosen, converged)


def _fitter(features_ND: np.ndarray, targets: np.ndarray, num_classes: int) -> Fit:
    """From a penalty to (weight, bias, converged); calls after the first start from the previous result."""
    from sklearn.linear_model import LogisticRegression

    columns = [targets] if targets.ndim == 1 else list(targets.T)
    models = [LogisticRegression(max_iter=_STEPS, warm_start=True) for _ in columns]

    def fit(penalty: float) -> tuple[Tensor, Tensor, bool]:
        weight = torch.zeros(num_classes, features_ND.shape[1], dtype=torch.float64)
        bias, converged = torch.full((num_classes,), -np.inf, dtype=torch.float64), True
        for place, (model, column) in enumerate(zip(models, columns, strict=True)):
            if len(np.unique(column)) < 2:  # a class that all rows have, or none: the same logit for all
                bias[place] = 0.0 if column.any() else -30.0
                continue
            model.C = 1.0 / (penalty * len(features_ND))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of steps that did not suffice: `converged` says it
                model.fit(features_ND, column)
            converged = converged and bool((model.n_iter_ < _STEPS).all())
            rows = [place] if targets.ndim == 2 else list(model.classes_)
            if len(rows) > len(model.coef_):  # two classes: one logit, of the second against the first
                bias[rows.pop(0)] = 0.0
            weight[rows], bias[rows] = (
                torch.from_numpy(model.coef_).double(),
                torch.from_numpy(model.intercept_).double(),
            )
        return weight, bias, converged

    return fit


def held_out_rows(targets: Tensor, seed: int) -> np.ndarray:
    """Rows to choose among fits, (N,) bool: a fifth of each class, at least one where it has two or more."""
    generator, labels = np.random.default_rng(seed), targets.numpy() if targets.ndim == 1 else np.zeros(len(targets))
    chosen = np.zeros(len(targets), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(len(members) - 1, max(1, round(_HELD_OUT * len(members))))
        chosen[generator.permutation(members)[:count]] = True
    return chosen
