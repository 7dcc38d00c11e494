"""Laws of the streaming loss. N: samples   K: keys in the dictionary   C: embedding width"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from moco.contrast import contrastive_logits, info_nce
from moco.contrast.loss import normalize
from tests.reference.info_nce import plain_info_nce, plain_logits


def unit_rows(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return functional.normalize(torch.randn(rows, width, dtype=dtype), dim=1)


def value_and_gradients(loss: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss * 1.7, tensors)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 17),
    k=st.integers(1, 60),
    c=st.integers(1, 12),
    temperature=st.sampled_from([0.05, 0.07, 0.2, 1.0, 5.0]),
    chunk=st.integers(1, 70),
    seed=st.integers(0, 10_000),
    double=st.booleans(),
)
def test_streaming_equals_plain_in_value_and_every_gradient(
    n: int, k: int, c: int, temperature: float, chunk: int, seed: int, double: bool
) -> None:
    torch.manual_seed(seed)
    dtype, tolerance = (torch.float64, 1e-12) if double else (torch.float32, 1e-5)
    q, k_, keys = (unit_rows(rows, c, dtype).requires_grad_() for rows in (n, n, k))
    loss = info_nce(q, k_, keys, temperature=temperature, chunk_size=chunk)
    assert loss.dtype == dtype
    ours = value_and_gradients(loss, q, k_, keys)
    # The twin computes in float64, so that the difference is the streaming form's own error.
    twins = [tensor.detach().double().requires_grad_() for tensor in (q, k_, keys)]
    naive = value_and_gradients(plain_info_nce(*twins, temperature), *twins)
    for got, expected in zip(ours, naive, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_each_tensor_gets_its_gradient_whichever_others_ask(wanted: tuple[int, ...]) -> None:
    tensors = [unit_rows(rows, 6) for rows in (5, 5, 13)]
    for place in wanted:
        tensors[place].requires_grad_()
    asked = [tensors[place] for place in wanted]
    ours = torch.autograd.grad(info_nce(*tensors, temperature=0.2, chunk_size=4), asked)
    naive = torch.autograd.grad(plain_info_nce(*tensors, 0.2), asked)
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-5)


def test_gradient_agrees_with_finite_differences() -> None:
    tensors = [unit_rows(rows, 3, torch.float64).requires_grad_() for rows in (4, 4, 7)]
    assert torch.autograd.gradcheck(lambda q, k, keys: info_nce(q, k, keys, temperature=0.3, chunk_size=3), tensors)


@pytest.mark.parametrize("size", [1, 10, 5000])
def test_loss_of_equal_logits_is_log_of_one_plus_k(size: int) -> None:
    direction = unit_rows(1, 8)
    loss = info_nce(direction.expand(4, 8), direction.expand(4, 8), direction.expand(size, 8), temperature=0.07)
    assert loss.item() == pytest.approx(math.log1p(size), abs=1e-5)


@pytest.mark.parametrize("match", [1.0, -1.0])
def test_loss_and_gradient_are_finite_and_right_at_extreme_temperature(match: float) -> None:
    torch.manual_seed(3)
    q = unit_rows(6, 16).requires_grad_()
    k, keys = match * q.detach(), unit_rows(40, 16)
    ours = value_and_gradients(info_nce(q, k, keys, temperature=1e-3, chunk_size=7), q)
    twin = q.detach().double().requires_grad_()
    naive = value_and_gradients(plain_info_nce(twin, k.double(), keys.double(), 1e-3), twin)
    assert all(tensor.isfinite().all() for tensor in ours)
    torch.testing.assert_close(ours[0].double(), naive[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1].double(), naive[1], rtol=1e-3, atol=1e-2)  # gradients of size 1000


def test_logits_have_the_positive_first() -> None:
    q, k, keys = unit_rows(5, 6), unit_rows(5, 6), unit_rows(9, 6)
    logits = contrastive_logits(q, k, keys, temperature=0.2)
    assert logits.shape == (5, 10)
    torch.testing.assert_close(logits, plain_logits(q, k, keys, 0.2))
    torch.testing.assert_close(
        functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long)), info_nce(q, k, keys, temperature=0.2)
    )


class LargestOutput(TorchDispatchMode):
    """Records the largest tensor that an operation allocates; views of known tensors cost nothing."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return output


def test_memory_is_the_chunk_not_the_dictionary() -> None:
    n, k, c, chunk = 8, 4096, 4, 64
    q, positives, keys = unit_rows(n, c).requires_grad_(), unit_rows(n, c), unit_rows(k, c)
    with LargestOutput(q, positives, keys) as record:
        info_nce(q, positives, keys, temperature=0.07, chunk_size=chunk).backward()
    assert n * c < record.numel <= n * chunk
    with LargestOutput(q, positives, keys) as plain:
        plain_info_nce(q, positives, keys, 0.07).backward()
    assert plain.numel >= n * k  # the recorder sees what the naive form costs


@pytest.mark.parametrize("learn", ["q", "k", "keys"])
def test_autocast_changes_neither_the_loss_nor_a_gradient(learn: str) -> None:
    tensors = {"q": unit_rows(9, 33), "k": unit_rows(9, 33), "keys": unit_rows(50, 33)}
    tensors[learn].requires_grad_()
    plain = value_and_gradients(info_nce(*tensors.values(), temperature=0.07), tensors[learn])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = value_and_gradients(info_nce(*tensors.values(), temperature=0.07), tensors[learn])
    assert mixed[0].dtype == torch.float32
    for one, other in zip(plain, mixed, strict=True):
        assert torch.equal(one, other)


def test_the_loss_changes_none_of_its_inputs() -> None:
    tensors = [unit_rows(rows, 6).requires_grad_() for rows in (5, 5, 13)]
    before = [tensor.detach().clone() for tensor in tensors]
    info_nce(*tensors, temperature=1.0, chunk_size=4).backward()
    for tensor, kept in zip(tensors, before, strict=True):
        assert torch.equal(tensor.detach(), kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_are_normalised_in_float32(dtype: torch.dtype) -> None:
    unit = normalize(torch.randn(20, 8).to(dtype))
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize("function", [info_nce, contrastive_logits])
@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_a_temperature_not_above_zero_is_refused(function: Any, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature=.*: need a value above 0"):
        function(unit_rows(2, 3), unit_rows(2, 3), unit_rows(5, 3), temperature=temperature)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_needs_a_key(chunk: int) -> None:
    with pytest.raises(ValueError, match=rf"chunk_size={chunk}: need at least 1"):
        info_nce(unit_rows(2, 3), unit_rows(2, 3), unit_rows(5, 3), temperature=0.1, chunk_size=chunk)


@pytest.mark.parametrize("function", [info_nce, contrastive_logits])
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (3, 3), (5, 3)),
        ((2, 3), (2, 4), (5, 3)),
        ((2, 3), (2, 3), (5, 4)),
        ((2, 3), (2, 3), (3,)),
        ((3,), (3,), (5, 3)),
        ((2, 3, 1), (2, 3, 1), (5, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(function: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C\), \(N, C\) and \(K, C\)"):
        function(*(torch.zeros(shape) for shape in shapes), temperature=0.1)
