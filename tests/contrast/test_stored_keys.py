"""Laws of a queue in fewer bits. N: samples   K: keys in the dictionary   C: embedding width"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from moco.config import Config
from moco.contrast import MoCo, Queue, contrastive_logits, info_nce, moco_step, symmetric_moco_step
from moco.contrast.stored_keys import ScaledKeys
from moco.errors import ConfigError
from tests.reference.info_nce import plain_info_nce
from tests.reference.queue import DequeQueue
from tests.reference.stored_keys import bf16_keys, int8_keys

SMALLER = {"bf16": bf16_keys, "int8": int8_keys}


def unit_rows(rows: int, width: int) -> Tensor:
    return functional.normalize(torch.randn(rows, width), dim=1)


def floats(queue: Queue) -> np.ndarray:
    return queue.keys.to(torch.float32).numpy()


@pytest.mark.parametrize("dtype", SMALLER)
def test_a_smaller_queue_is_a_deque_of_rounded_keys(dtype):
    queue = Queue(23, 5, dtype=dtype)
    naive = DequeQueue(floats(queue))
    for count in (4, 0, 30, 7, 23, 1):
        keys = unit_rows(count, 5)
        queue.enqueue(keys)
        naive.enqueue(SMALLER[dtype](keys.numpy()))
        np.testing.assert_array_equal(floats(queue), naive.ring())
        assert int(queue.pointer) == naive.pointer


@pytest.mark.parametrize("dtype", SMALLER)
def test_it_starts_as_the_same_unit_vectors_rounded(dtype):
    torch.manual_seed(0)
    plain = Queue(5000, 16)
    torch.manual_seed(0)
    queue = Queue(5000, 16, dtype=dtype)  # more than one block
    np.testing.assert_array_equal(floats(queue), SMALLER[dtype](plain.keys_KC.numpy()))


def test_a_key_is_off_by_half_a_step_at_most():
    keys = torch.cat([unit_rows(300, 128), torch.zeros(1, 128), unit_rows(1, 128) * 1e-30])
    stored = ScaledKeys.of(keys)
    assert ((stored.to(torch.float32) - keys).abs().amax(dim=1) <= 0.501 * stored.scales_K).all()
    assert int(stored.codes_KC.abs().max()) == 127
    assert torch.equal(stored[3:9].to(torch.float32), stored.to(torch.float32)[3:9])


@pytest.mark.parametrize("dtype", SMALLER)
def test_loss_and_gradient_are_those_of_the_rounded_keys(dtype):
    """Streaming over blocks is the plain form over the whole dictionary in floats."""
    queue = Queue(37, 6, dtype=dtype)
    q, k = unit_rows(5, 6).requires_grad_(), unit_rows(5, 6)
    loss = info_nce(q, k, queue.keys, temperature=0.07, chunk_size=4)
    twin = q.detach().double().requires_grad_()
    naive = plain_info_nce(twin, k.double(), torch.from_numpy(floats(queue)).double(), 0.07)
    torch.testing.assert_close(loss.double(), naive, rtol=1e-5, atol=1e-5)
    (ours,), (expected,) = torch.autograd.grad(loss, [q]), torch.autograd.grad(naive, [twin])
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    logits = contrastive_logits(q, k, queue.keys, temperature=0.07)
    torch.testing.assert_close(functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long)), loss)


def test_a_dictionary_in_bf16_that_learns_gets_its_gradient():
    q, k = unit_rows(5, 6), unit_rows(5, 6)
    keys = unit_rows(9, 6).bfloat16().requires_grad_()
    info_nce(q, k, keys, temperature=0.2, chunk_size=4).backward()
    twin = keys.detach().float().requires_grad_()
    plain_info_nce(q, k, twin, 0.2).backward()
    assert keys.grad is not None
    assert keys.grad.dtype == torch.bfloat16
    torch.testing.assert_close(keys.grad.float(), twin.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", 512.0), ("bf16", 256.0), ("int8", 132.0)])
def test_bytes_of_a_key_also_in_a_checkpoint(dtype, expected):
    state = Queue(100, 128, dtype=dtype).state_dict()
    assert sum(value.nbytes for name, value in state.items() if name != "pointer") / 100 == expected
    assert ("scales_K" in state) == (dtype == "int8")


@pytest.mark.parametrize("dtype", SMALLER)
@pytest.mark.parametrize("step", [moco_step, symmetric_moco_step])
def test_the_dictionary_is_never_made_into_floats_as_a_whole(dtype, step):
    size, width = 20_000, 4
    model = MoCo(
        nn.Linear(6, width),
        dictionary_size=size,
        embedding_dim=width,
        key_momentum=0.9,
        temperature=0.2,
        dictionary_dtype=dtype,
    )
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.1)
    with Largest() as largest:
        step(model, torch.randn(3, 6), torch.randn(3, 6), optimizer)
        model.state_dict()
    assert 0 < largest.numbers < size * width


class Largest(TorchDispatchMode):
    """The largest floating-point tensor in float32 that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float64):
                self.numbers = max(self.numbers, value.numel())
        return result


@pytest.mark.parametrize("dtype", SMALLER)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_key_that_is_no_number_leaves_the_older_key_in_its_place(dtype, bad):
    queue, keys = Queue(5, 3, dtype=dtype), unit_rows(2, 3)
    before = floats(queue)
    keys[1, 2] = bad
    queue.enqueue(keys)
    expected = np.concatenate([SMALLER[dtype](keys[:1].numpy()), before[1:]])
    np.testing.assert_array_equal(floats(queue), expected)


def test_scales_are_stored_and_come_back():
    queue, other = Queue(7, 3, dtype="int8"), Queue(7, 3, dtype="int8")
    queue.enqueue(3 * torch.randn(4, 3))
    other.load_state_dict(queue.state_dict())
    np.testing.assert_array_equal(floats(other), floats(queue))
    for one, two in (("int8", "fp32"), ("fp32", "int8")):
        with pytest.raises(RuntimeError, match="scales_K"):
            Queue(7, 3, dtype=one).load_state_dict(Queue(7, 3, dtype=two).state_dict())


def test_enqueue_waits_for_no_device():
    queue = Queue(5, 3, dtype="int8").to("meta")
    queue.enqueue(torch.randn(7, 3, device="meta"))
    assert queue.keys.shape == (5, 3)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype='fp8' of the dictionary: choose one of fp32, bf16, int8"):
        Queue(5, 3, dtype="fp8")


@pytest.mark.parametrize(
    ("mechanism", "why"),
    [("memory-bank", "small part of each new embedding"), ("end-to-end", "no keys"), ("moco-v3", "no keys")],
)
def test_mechanisms_without_a_queue_refuse_it(mechanism, why):
    options: dict[str, dict[str, Any]] = {
        "memory-bank": {"key_momentum": None, "bank_momentum": 0.5},
        "end-to-end": {"key_momentum": None, "dictionary_size": None},
        "moco-v3": {"dictionary_size": None, "head": "v3-resnet", "symmetric": True},
    }
    Config(mechanism=mechanism, **options[mechanism])
    with pytest.raises(ConfigError, match=f"dictionary_dtype='int8' with mechanism '{mechanism}'.*{why}"):
        Config(mechanism=mechanism, dictionary_dtype="int8", **options[mechanism])
