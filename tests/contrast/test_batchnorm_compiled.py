"""What the compiler is given computes what the kernels compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from moco.contrast.batchnorm import SplitBatchNorm, split_batchnorm


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(("count", "shape", "dtype"), [(12, (5, 4), torch.float32), (13, (), torch.float64)])
def test_the_compiled_form_is_the_same(count, shape, dtype):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3, momentum=0.3) if shape else nn.BatchNorm1d(3, momentum=0.3)
    with torch.no_grad():
        plain.weight.uniform_(0.5, 1.5)
        plain.bias.uniform_(-1, 1)
    kernels = split_batchnorm(plain.to(dtype), 4)
    formula = copy.deepcopy(kernels)
    assert isinstance(kernels, SplitBatchNorm)
    torch.compiler.reset()
    compiled = torch.compile(formula, backend="eager", dynamic=False, fullgraph=True)
    for _ in range(2):
        x = torch.randn(count, 3, *shape, dtype=dtype)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        pull = torch.randn_like(x)
        one, two = compiled(ours), kernels(theirs)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        one.backward(pull)
        two.backward(pull)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for (name, left), right in zip(formula.named_parameters(), kernels.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-4, msg=name)
    for (name, left), right in zip(formula.named_buffers(), kernels.buffers(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, msg=name)
