"""Laws of encoding in chunks. N: samples   C: embedding width"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.contrast import EndToEnd, MoCo, MoCoV3, end_to_end_loss, moco_loss, moco_v3_loss
from moco.contrast.chunks import InChunks

OPTIONS: dict[str, Any] = {"embedding_dim": 5, "temperature": 0.2}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).double()


def build(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "end-to-end":
        return EndToEnd(network(), **OPTIONS), end_to_end_loss
    if kind == "moco-v3":
        return MoCoV3(network(), nn.Linear(5, 5).double(), key_momentum=0.9, **OPTIONS), moco_v3_loss
    return MoCo(network(), dictionary_size=40, key_momentum=0.9, **OPTIONS), moco_loss


def gradients(kind: str, chunk_size: int | None) -> tuple[Tensor, list[Tensor | None]]:
    model, loss_of = build(kind)
    if chunk_size is not None:
        key = getattr(model, "encoder_k", None)
        model.run_encoders_with(
            query=InChunks(model.query_side, chunk_size), key=None if key is None else InChunks(key, chunk_size)
        )
    torch.manual_seed(1)
    loss = loss_of(model, *(torch.randn(23, 6, dtype=torch.float64) for _ in range(2))).loss
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("kind", ["moco", "end-to-end", "moco-v3"])
@pytest.mark.parametrize("chunk_size", [1, 8, 23, 100])
def test_the_gradient_is_the_whole_batchs(kind: str, chunk_size: int) -> None:
    torch.testing.assert_close(gradients(kind, chunk_size), gradients(kind, None), rtol=1e-10, atol=1e-12)


def test_both_passes_draw_the_same_dropout() -> None:
    drawn: list[Tensor] = []
    dropout = nn.Dropout(0.5)
    dropout.register_forward_hook(lambda _module, _args, output: drawn.append(output.detach() != 0))
    encoder = InChunks(nn.Sequential(nn.Linear(3, 32), dropout, nn.Linear(32, 2)), 4)
    encoder(torch.randn(8, 3)).square().sum().backward()
    first, second, again_second, again_first = drawn
    assert torch.equal(first, again_first)
    assert torch.equal(second, again_second)
    assert not torch.equal(first, second)


def test_running_statistics_move_once_a_chunk() -> None:
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    chunked = copy.deepcopy(plain)
    x = torch.randn(12, 3)
    InChunks(chunked, 4)(x).square().sum().backward()
    torch.cat([plain(part) for part in x.split(4)]).square().sum().backward()
    assert chunked[1].num_batches_tracked == 3
    for name, value in plain.state_dict().items():
        assert torch.equal(chunked.state_dict()[name], value), name
    for ours, theirs in zip(chunked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_one_chunks_activations_are_alive_at_a_time() -> None:
    alive = most = 0

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            nonlocal alive
            ctx.saved_tensors  # noqa: B018 - brings the second pass
            alive -= 1
            return grad

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal alive, most
            if torch._C._current_graph_task_id() != -1:  # inside backward: the second pass
                alive += 1
                most = max(most, alive)
            y: Tensor = Held.apply(x)
            return y

    encoder = InChunks(nn.Sequential(nn.Linear(3, 4), Counting()), 2)
    encoder(torch.randn(10, 3)).square().sum().backward()
    assert (alive, most) == (0, 1)


def test_a_batch_of_several_tensors_and_a_refused_size() -> None:
    class Pair(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["a"] + batch["b"]

    x = torch.randn(5, 2)
    assert torch.equal(InChunks(Pair(), 2)({"a": x, "b": x}), 2 * x)
    with pytest.raises(ValueError, match="chunk_size=0: need at least 1"):
        InChunks(nn.Identity(), 0)


def test_chunks_are_views_of_equal_size() -> None:
    seen: list[Tensor] = []
    encoder = nn.Identity()
    encoder.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    x = torch.randn(11, 2)
    assert torch.equal(InChunks(encoder, 5)(x), x)
    assert [len(chunk) for chunk in seen] == [4, 4, 3]
    assert {chunk.untyped_storage().data_ptr() for chunk in seen} == {x.untyped_storage().data_ptr()}


class Weighted(nn.Module):
    """Multiplies by a buffer, which every call changes, as spectral normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.factor.mul_(1.5)
        return self.linear(x * self.factor).sin()


def test_the_second_pass_has_the_buffers_of_the_first() -> None:
    plain = Weighted()
    chunked, x = copy.deepcopy(plain), torch.randn(6, 3)
    InChunks(chunked, 2)(x).square().sum().backward()
    sum(plain(part).square().sum() for part in x.split(2)).backward()
    torch.testing.assert_close(chunked.linear.weight.grad, plain.linear.weight.grad)
    assert torch.equal(chunked.factor, plain.factor)


def test_shuffled_chunks_mix_samples_while_training_and_keep_their_order() -> None:
    seen: list[list[int]] = []
    encoder = nn.Identity()
    encoder.register_forward_pre_hook(lambda _module, args: seen.append(args[0][:, 0].int().tolist()))
    shuffled, x = InChunks(encoder, 4, shuffle=True), torch.arange(12.0)[:, None]
    assert torch.equal(shuffled(x), x)
    assert sorted(sample for chunk in seen for sample in chunk) == list(range(12))
    assert seen != [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    state = torch.get_rng_state()
    assert torch.equal(shuffled.eval()(x), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_under_autocast_gradients_of_chunks_add_up_in_float32() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 8), torch.randn(256, 64)
    apart = copy.deepcopy(linear)
    with torch.autocast("cpu", torch.bfloat16):
        loss = InChunks(linear, 4)(x).float().square().sum()
    loss.backward()
    for part in x.split(4):
        with torch.autocast("cpu", torch.bfloat16):
            loss = apart(part).float().square().sum()
        loss.backward()
    torch.testing.assert_close(linear.weight.grad, apart.weight.grad, rtol=1e-5, atol=1e-3)
