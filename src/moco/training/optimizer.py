"""Optimisers of what learns by gradient: f_q, and v3's predictor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.contrast import ContrastiveModel
from moco.errors import ConfigError

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
    neither decayed nor scaled.
    """
    parameters = [parameter for parameter in model.query_side.parameters() if parameter.requires_grad]
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.sgd_momentum
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    if config.optimizer == "sgd":
        if all(parameter.device.type == "cpu" and _is_dense(parameter) for parameter in parameters):
            return MemoryOrderSGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)
        return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay, fused=True)
    scaled = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay, "always_adapt": True}
    plain = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "always_adapt": False}
    groups = [group for group in (scaled, plain) if group["params"]]
    optimizer: torch.optim.Optimizer = _lars()(
        groups, lr=rate, momentum=momentum, trust_coeff=TRUST_COEFFICIENT, eps=0.0, trust_clip=False, nesterov=False
    )
    return optimizer


class MemoryOrderSGD(torch.optim.SGD):
    """PyTorch's fused SGD on each tensor as a row of numbers in the order in which they lie in memory.

    What it computes does not know of shapes, but on channels-last weights it takes nearly twice as long (docs/log.md).

    Args:
        parameters: what learns; dense, in any layout.
        lr, momentum, weight_decay: as `torch.optim.SGD` takes them.
    """

    def __init__(self, parameters: list[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        self._parameters = parameters
        self._rows = [nn.Parameter(_row(parameter.detach())) for parameter in parameters]
        super().__init__(self._rows, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)

    def step(self, closure: Any = None) -> Any:
        """One step along the gradients of the parameters; those without one stay."""
        for parameter, row in zip(self._parameters, self._rows, strict=True):
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            row.grad = None if gradient is None else _row(gradient)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or make them zero."""
        super().zero_grad(set_to_none)
        for parameter in self._parameters:
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.zero_()


def _is_dense(tensor: Tensor) -> bool:
    """Whether the numbers lie one after the other, in whatever order."""
    sizes = sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    follows = 1
    for stride, size in sizes:
        if stride != follows:
            return False
        follows *= size
    return True


def _row(dense: Tensor) -> Tensor:
    """The tensor's numbers in the order of memory, (numel,), sharing them."""
    return dense.as_strided((dense.numel(),), (1,))


def _lars() -> Any:
    """timm's LARS."""
    try:
        from timm.optim.lars import Lars
    except ImportError as error:
        raise ConfigError(
            "optimizer='lars' needs timm: pip install 'moco-contrast[timm]', or choose 'sgd' or 'adamw'"
        ) from error
    return Lars
