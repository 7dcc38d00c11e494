"""Laws of the queue. N: keys enqueued at once   K: keys in the dictionary   C: embedding width"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.contrast import Queue
from tests.reference.queue import DequeQueue


def numbered(start: int, count: int, width: int = 2) -> torch.Tensor:
    """Keys that tell their own age: row i is filled with start + i."""
    return torch.arange(start, start + count, dtype=torch.float32)[:, None].expand(count, width).clone()


def oldest_first(queue: Queue) -> torch.Tensor:
    return torch.roll(queue.keys_KC, -int(queue.pointer), dims=0)


def test_queue_starts_as_random_unit_vectors() -> None:
    queue = Queue(500, 7)
    torch.testing.assert_close(queue.keys_KC.norm(dim=1), torch.ones(500))
    assert queue.keys_KC.dtype == torch.float32
    assert queue.keys_KC.mean(dim=0).norm() < 0.2  # no preferred direction
    assert len(torch.unique(queue.keys_KC, dim=0)) == 500
    assert int(queue.pointer) == 0
    assert len(queue) == 500


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 23),
    width=st.integers(1, 5),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=8),
)
def test_queue_equals_a_deque(size: int, width: int, counts: list[int]) -> None:
    queue = Queue(size, width)
    naive = DequeQueue(queue.keys_KC.numpy())
    for count in counts:
        keys = torch.randn(count, width)
        queue.enqueue(keys)
        naive.enqueue(keys.numpy())
        np.testing.assert_array_equal(queue.keys_KC.numpy(), naive.ring())
        np.testing.assert_array_equal(oldest_first(queue).numpy(), np.stack(naive.keys))
        assert int(queue.pointer) == naive.pointer


def test_oldest_keys_leave_first() -> None:
    queue = Queue(6, 2)
    for start in range(0, 20, 4):  # 4 does not divide 6
        queue.enqueue(numbered(start, 4))
    assert oldest_first(queue)[:, 0].tolist() == [14, 15, 16, 17, 18, 19]


@pytest.mark.parametrize("count", [6, 7, 12, 13, 40])
def test_a_batch_of_the_dictionary_or_more_keeps_its_newest_keys(count: int) -> None:
    queue = Queue(6, 2)
    queue.enqueue(numbered(-2, 2))
    queue.enqueue(numbered(0, count))
    assert oldest_first(queue)[:, 0].tolist() == list(range(count - 6, count))


def test_keys_and_pointer_survive_a_checkpoint() -> None:
    """Other libraries lost the queue on resume."""
    queue, other = Queue(5, 3), Queue(5, 3)
    queue.enqueue(torch.randn(7, 3))
    assert set(queue.state_dict()) == {"keys_KC", "pointer"}
    other.load_state_dict(queue.state_dict())
    more = torch.randn(4, 3)
    queue.enqueue(more)
    other.enqueue(more)
    assert torch.equal(queue.keys_KC, other.keys_KC)
    assert torch.equal(queue.pointer, other.pointer)
    assert int(other.pointer) == 11 % 5


def test_queue_takes_no_gradient_and_keeps_its_storage() -> None:
    queue = Queue(5, 3)
    storage = queue.keys_KC.data_ptr()
    queue.enqueue(torch.randn(4, 3, requires_grad=True) * 2)
    assert not queue.keys_KC.requires_grad
    assert list(queue.parameters()) == []
    assert queue.keys_KC.data_ptr() == storage


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_key_that_is_no_number_leaves_the_older_key_in_its_place(bad: float) -> None:
    queue, keys = Queue(5, 3), torch.randn(4, 3)
    queue.enqueue(torch.randn(3, 3))  # so that the next ones go round
    before = queue.keys_KC.clone()
    keys[1, 2] = bad
    queue.enqueue(keys)
    assert torch.equal(queue.keys_KC, torch.stack([keys[2], keys[3], before[2], keys[0], before[4]]))
    assert int(queue.pointer) == 2


def test_half_precision_keys_are_stored_in_float32() -> None:
    queue = Queue(5, 3)
    keys = torch.randn(2, 3).bfloat16()
    queue.enqueue(keys)
    assert queue.keys_KC.dtype == torch.float32
    assert torch.equal(queue.keys_KC[:2], keys.float())


def test_enqueue_reads_the_pointer_on_the_device_alone() -> None:
    """On the meta device any read by the host fails, as it would stall a GPU."""
    queue = Queue(5, 3).to("meta")
    queue.enqueue(torch.randn(7, 3, device="meta"))
    assert queue.keys_KC.shape == (5, 3)


@pytest.mark.parametrize("size", [0, -1])
def test_a_dictionary_needs_a_key(size: int) -> None:
    with pytest.raises(ValueError, match=rf"dictionary_size={size}: need at least 1"):
        Queue(size, 4)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 1)])
def test_keys_of_another_shape_are_refused_and_nothing_changes(shape: tuple[int, ...]) -> None:
    queue = Queue(6, 4)
    before = queue.keys_KC.clone()
    with pytest.raises(ValueError, match=r"expected \(N, 4\)"):
        queue.enqueue(torch.zeros(shape))
    assert torch.equal(queue.keys_KC, before)
    assert int(queue.pointer) == 0
