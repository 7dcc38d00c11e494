"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): the step of a weight matrix is its momentum with all
singular values made about alike; biases and norms are stepped by AdamW, and the layer that reads the input by SGD. Step
sizes as in Liu et al. 2025 (2502.16982).

By hand: PyTorch's own refuses convolutions, and timm's multiplies in bfloat16, which a processor without it emulates
(resnet_small, one thread of an AMD EPYC: 53 ms a step, with AVX2 alone 1,289; this one 41 and 39 in fp32, of which
bfloat16 leaves about half: docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of the quintic: ends near 1 from wherever it begins, not at it
# Of its iterations, how many on one product of the matrix with itself. In bf16 a product's small eigenvalues come out
# below 0 now and then, and each iteration makes those 12 times as large: five in a row diverge (docs/log.md).
ITERATIONS = {torch.float32: (5,), torch.bfloat16: (3, 2)}
LIKE_ADAM = 0.2  # root mean square of a step at learning rate 1, as AdamW's
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW
INPUT_RATE = 30  # of SGD, in learning rates: 0.06 at 0.002, which short runs of `sgd` did best with (docs/log.md)
TINY = 1e-7  # the least length that something is divided by


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices, AdamW for the other parameters, with the same learning rate; SGD for the input layer.

    A convolution's weight (out, in, h, w) is the matrix (out, in * h * w). Where out or in is 1 (convolutions by
    channel, embeddings of positions) it is none.

    A matrix keeps the length (root of the sum of squares) that it begins with, but for weight decay. Steps have one
    length whatever the gradient's, so that weights would grow; normalisation layers and the cosine of the loss undo
    that in the features, but fine-tuning with the usual learning rates would move them too little (docs/log.md). Where
    the length of the weights counts, this is a constraint. Weights that begin at 0 keep the length of their first step.

    The input layer's weights grow as by `sgd` alone, to twice the length in some thousand steps: kept as short as they
    begin, the usual learning rates of fine-tuning move them too far (docs/log.md).

    Args:
        params: parameters, or groups of them.
        lr: learning rate; 0.002 is usual. A matrix's step has a root mean square of about 0.2 lr.
        weight_decay: decoupled as in AdamW: share of all weights that a step at learning rate 1 takes away.
        momentum: of the matrices' gradients, Nesterov's form; of SGD in its usual form.
        input_layer: weights that read the input, one of `params`; stepped by SGD at 30 times the learning rate. None
            where none of them does.
        bf16: multiply matrices in bfloat16 (weights and momentum stay as they are). Faster where the hardware does so.

    Attributes:
        found_inf: 1 where the next step is to change no weight, as of PyTorch's fused optimisers. The caller sees to it
            that gradients are finite all the same.
    """

    found_inf: Tensor | float = 0.0

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        input_layer: Tensor | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.input_layer = input_layer
        self.dtype = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change all parameters that have a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        kept = 1.0 - self.found_inf
        parameter: Tensor
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - kept * (group["lr"] * group["weight_decay"]))
                if parameter is self.input_layer:
                    parameter.add_(self._input(parameter, group).mul(kept), alpha=-INPUT_RATE * group["lr"])
                elif is_matrix(parameter):
                    length = parameter.norm()
                    parameter.add_(self._matrix(parameter, group).mul_(kept), alpha=-group["lr"])
                    back = torch.where(length > 0, length / parameter.norm().clamp(min=TINY), 1.0)
                    parameter.mul_(1 + kept * (back - 1))
                else:
                    parameter.add_(self._vector(parameter).mul_(kept), alpha=-group["lr"])
        return loss

    def _input(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        return self._momentum(parameter).mul_(group["momentum"]).add_(parameter.grad)

    def _matrix(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        mean = self._momentum(parameter).lerp_(gradient, 1 - group["momentum"])
        matrix = orthogonalized(gradient.lerp(mean, group["momentum"]).flatten(1), self.dtype)
        return matrix.mul_(LIKE_ADAM * max(matrix.shape) ** 0.5).view(parameter.shape)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum

    def _vector(self, parameter: Tensor) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - BETAS[0])
        square = state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        first, second = (1 - beta ** state["step"] for beta in BETAS)
        change: Tensor = (mean / first) / ((square / second).sqrt() + EPS)
        return change


def is_matrix(parameter: Tensor) -> bool:
    """Whether it maps several numbers to several others."""
    return parameter.ndim > 1 and min(parameter.shape[:2]) > 1


def orthogonalized(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(m, n) -> (m, n): singular vectors stay, singular values come to about 1 (0.7 to 1.2), those near 0 stay small.

    `dtype`: of the products, float32 or bfloat16.

    Newton and Schulz's iteration X <- (a + b XX' + c (XX')²) X, on XX' instead of X: each X is a polynomial of the
    first XX', times the first X, so that the long side of a filter's matrix is multiplied two or four times, not ten.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.mT).float()
    x = (x / x.norm().clamp(min=TINY)).to(dtype)
    for count in ITERATIONS[dtype]:
        x = _polynomial(x @ x.mT, count) @ x
    found: Tensor = x.float()
    return found if wide else found.mT.contiguous()


def _polynomial(gram: Tensor, count: int) -> Tensor:
    """P of (m, m) with P X the X after so many iterations, where gram is XX'."""
    a, b, c = NEWTON_SCHULZ
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    whole: Tensor | None = None
    for left in reversed(range(count)):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c).add_(identity, alpha=a)
        whole = factor if whole is None else factor @ whole
        if left:
            gram = factor @ gram @ factor
    assert whole is not None
    return whole
