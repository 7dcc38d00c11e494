"""Optimisers of what learns by gradient: f_q, and v3's predictor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from moco.config import Config
from moco.contrast import ContrastiveModel
from moco.errors import ConfigError
from moco.training.muon import Muon, is_matrix

TRUST_COEFFICIENT = 0.001  # of LARS (1708.03888)


def check_optimizer(config: Config) -> None:
    """Whether the optimiser is to be had here.

    Raises:
        ConfigError: LARS without timm.
    """
    if config.optimizer == "lars":
        _lars()


def make_optimizer(model: ContrastiveModel, config: Config) -> torch.optim.Optimizer:
    """The configuration's optimiser on all parameters that take a gradient.

    "sgd": weight decay on all parameters, as in MoCo v1 and v2. "adamw": the same, with PyTorch's betas (0.9, 0.999).
    "lars": You et al. 2017 (1708.03888), each tensor's step scaled by 0.001 |w| / (|g| + decay |w|), momentum as in
    PyTorch's SGD (the learning rate stays outside of it); biases and BatchNorm's weights (one dimension at most) are
    neither decayed nor scaled. "muon": see `Muon`, whose input layer are the first weights with an input and an output;
    `sgd_momentum` is that of SGD and of its matrices, which it multiplies in the run's precision.
    """
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.sgd_momentum
    groups = _groups(model, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)
    if config.optimizer == "muon":
        reads = next((p for p in model.query_side.parameters() if p.ndim > 3 or is_matrix(p)), None)
        bf16 = config.precision == "bf16"
        return Muon(groups, lr=rate, weight_decay=decay, momentum=momentum, input_layer=reads, bf16=bf16)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, weight_decay=decay, fused=True)
    kinds: list[dict[str, Any]] = []
    for group in groups:
        scaled, plain = ([p for p in group["params"] if (p.ndim > 1) == several] for several in (True, False))
        kinds += [
            {**group, "params": scaled, "weight_decay": decay, "always_adapt": True},
            {**group, "params": plain, "weight_decay": 0.0, "always_adapt": False},
        ]
    kinds = [kind for kind in kinds if kind["params"]]
    optimizer: torch.optim.Optimizer = _lars()(
        kinds, lr=rate, momentum=momentum, trust_coeff=TRUST_COEFFICIENT, eps=0.0, trust_clip=False, nesterov=False
    )
    return optimizer


def _groups(model: ContrastiveModel, config: Config) -> list[dict[str, Any]]:
    """What learns: all of it, or the backbone by itself with the step from which it learns (`late_start_factor`)."""
    learns = [parameter for parameter in model.query_side.parameters() if parameter.requires_grad]
    if not config.head_warmup_steps:
        return [{"params": learns}]
    backbone = {id(parameter) for parameter in model.encoder_q.get_submodule("backbone").parameters()}
    waits, begins = ([p for p in learns if (id(p) in backbone) == inside] for inside in (True, False))
    return [{"params": begins}, {"params": waits, "from_step": config.head_warmup_steps}]


def leave_out_if_not_finite_(optimizer: torch.optim.Optimizer) -> Tensor:
    """To be called before the step: where a gradient is infinite or no number, the step changes no weight by it.

    Returns whether all are finite, on the device, for which nothing waits.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    finite = get_total_norm(gradients).isfinite()
    if optimizer.defaults.get("fused") and optimizer.state:  # the first step would leave its momentum unwritten
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as GradScaler has a fused step left out
    else:
        for gradient in gradients:
            gradient.masked_fill_(~finite, 0.0)
    if isinstance(optimizer, Muon):  # without a gradient its momentum would go on
        optimizer.found_inf = (~finite).float()
    return finite


def _lars() -> Any:
    """timm's LARS."""
    try:
        from timm.optim.lars import Lars
    except ImportError as error:
        raise ConfigError(
            "optimizer='lars' needs timm: pip install 'moco-contrast[timm]', or choose 'sgd' or 'adamw'"
        ) from error
    return Lars
