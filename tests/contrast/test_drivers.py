"""Other people's loops learn what `moco_step` learns: docs/own-loop.md, example by example."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco import contrast
from moco.contrast import ContrastiveModel, EndToEnd, LossAndKeys, MemoryBank, MoCo, MoCoV3, moco_loss, moco_step
from tests.contrast.own_loop import EXAMPLES, learnt, start
from tests.contrast.test_algorithm_laws import normalizing, same, values

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def expected() -> dict[str, Tensor]:
    """What `moco_step` learns from the page's batches."""
    names = start()
    for batch in names["batches"]:
        moco_step(names["model"], *batch, names["optimizer"])
    state = values(names["model"])
    assert int(state["queue.pointer"]) == 4 * 32 % 96
    return state


def test_the_plain_loop_is_the_step_bit_for_bit(expected: dict[str, Tensor]) -> None:
    assert same(learnt("plain"), expected)


@pytest.mark.filterwarnings("ignore")  # Lightning's and Transformers' own
@pytest.mark.parametrize("example", ["accumulation", "lightning", "transformers"])
def test_an_example_of_the_page_learns_what_the_step_learns(
    example: str, expected: dict[str, Tensor], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if example == "transformers":
        pytest.importorskip("accelerate")
    torch.testing.assert_close(learnt(example), expected, **CLOSE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("example", "old", "new"),
    [
        ("lightning", "max_epochs=1,", "max_epochs=1, accumulate_grad_batches=2,"),
        ("transformers", "max_steps=4,", "max_steps=4, gradient_accumulation_steps=2,"),
    ],
)
def test_trainers_accumulate_as_the_page_does(
    example: str, old: str, new: str, expected: dict[str, Tensor], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half batches, two for each step: the queue and f_k move once, after both."""
    monkeypatch.chdir(tmp_path)
    code = EXAMPLES[example].replace(old, new).replace("batch_size=32", "batch_size=16")
    halves = "batches = [p for q, k in batches for p in zip(q.chunk(2), k.chunk(2))]\n"
    torch.testing.assert_close(learnt(example, halves + code), expected, **CLOSE)


def test_the_scaler_changes_precision_alone(expected: dict[str, Tensor]) -> None:
    state = learnt("scaler")
    torch.testing.assert_close(state, expected, rtol=0.05, atol=0.02)
    assert not same(state, expected)  # bfloat16 was on


def test_clipped_gradients_make_small_steps(expected: dict[str, Tensor]) -> None:
    before, state = values(start()["model"]), learnt("clipping")

    def distance(to: dict[str, Tensor]) -> float:
        return sum(float((to[n] - v).square().sum()) for n, v in before.items() if n.startswith("encoder_q.")) ** 0.5

    assert 0 < distance(state) <= 0.1 * 0.01 * (1 + 1.9 + 2.71 + 3.44) < distance(expected)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("what", ["encoders", "loss"])
def test_compiled_equals_eager(what: str, expected: dict[str, Tensor]) -> None:
    torch.compiler.reset()
    code = EXAMPLES["compile"].replace(".encoder_q)", '.encoder_q, backend="aot_eager")')
    code = code.replace(".encoder_k)", '.encoder_k, backend="aot_eager")')
    if what == "loss":
        code = 'moco_loss = torch.compile(moco_loss, backend="aot_eager")\n' + EXAMPLES["plain"]
    torch.testing.assert_close(learnt("compile", code), expected, **CLOSE)


def mechanisms() -> dict[str, tuple[Callable[[], ContrastiveModel], str]]:
    common: dict[str, Any] = {"embedding_dim": 5, "temperature": 0.2}
    queue: dict[str, Any] = {**common, "dictionary_size": 20, "key_momentum": 0.9}
    bank: dict[str, Any] = {**common, "num_samples": 30, "dictionary_size": 9, "bank_momentum": 0.5}
    return {
        "moco": (lambda: MoCo(normalizing(), **queue), "x_q x_k"),
        "symmetric_moco": (lambda: MoCo(normalizing(), **queue), "x_q x_k"),
        "memory_bank": (lambda: MemoryBank(normalizing(), **bank), "x_q indices"),
        "end_to_end": (lambda: EndToEnd(normalizing(), **common), "x_q x_k"),
        "moco_v3": (lambda: MoCoV3(normalizing(), nn.Linear(5, 5), key_momentum=0.9, **common), "x_q x_k"),
    }


@pytest.mark.parametrize("name", list(mechanisms()))
def test_each_step_is_its_loss_the_optimiser_and_what_follows(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = mechanisms()[name]
    one = build()
    other = copy.deepcopy(one)
    loss_of, step = getattr(contrast, f"{name}_loss"), getattr(contrast, f"{name}_step")
    one_sgd, other_sgd = (torch.optim.SGD(m.query_side.parameters(), lr=0.1, momentum=0.9) for m in (one, other))
    for seed in range(3):
        drawn = {"x_q": torch.randn(8, 6), "x_k": torch.randn(8, 6), "indices": torch.randperm(30)[:8]}
        batch = [drawn[part] for part in inputs.split()]
        torch.manual_seed(seed)  # the shuffle of split keys, the bank's draw
        loss, accuracy = step(one, *batch, one_sgd)
        torch.manual_seed(seed)
        before = values(other)
        found = loss_of(other, *batch)
        moved = {n for n, v in other.state_dict().items() if not torch.equal(v, before[n])}
        assert all("running" in n or "num_batches" in n for n in moved), "a loss moves BatchNorm's statistics alone"
        other_sgd.zero_grad()
        found.loss.backward()
        other_sgd.step()
        other.after_step_(found.keys)
        assert isinstance(found, LossAndKeys)
        assert torch.equal(loss, found.loss)
        assert torch.equal(accuracy, found.pretext_accuracy)
        assert not loss.requires_grad
        assert not accuracy.requires_grad
    assert same(values(one), values(other))


def scaled() -> Any:
    return torch.amp.GradScaler("cpu")


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", list(mechanisms()))
def test_a_scaler_handed_in_as_backward_is_refused(name: str, optimizer: Any) -> None:
    build, inputs = mechanisms()[name]
    drawn = {"x_q": torch.randn(8, 6), "x_k": torch.randn(8, 6), "indices": torch.arange(8)}
    batch, scaler = [drawn[part] for part in inputs.split()], scaled()
    for backward in (scaler.scale, lambda loss: scaler.scale(loss).backward()):
        model, step = build(), getattr(contrast, f"{name}_step")
        with pytest.raises(ValueError, match="backward="):
            step(model, *batch, optimizer(model.query_side.parameters()), backward=backward)


def test_a_scale_that_the_optimiser_knows_of_is_taken() -> None:
    names, scaler = start(), scaled()
    model, optimizer = names["model"], names["optimizer"]

    class Unscaling:
        """As Fabric's and Accelerate's optimisers do it."""

        zero_grad = staticmethod(optimizer.zero_grad)

        def step(self) -> None:
            scaler.step(optimizer)
            scaler.update()

    plain = start()
    for batch in names["batches"]:
        moco_step(model, *batch, Unscaling(), backward=lambda loss: scaler.scale(loss).backward())  # type: ignore[arg-type]
        moco_step(plain["model"], *batch, plain["optimizer"])
    torch.testing.assert_close(values(model), values(plain["model"]), **CLOSE)


def test_a_validation_loss_changes_nothing() -> None:
    names = start()
    before = values(names["model"])
    with torch.no_grad():
        assert moco_loss(names["model"], *names["batches"][0]).loss.isfinite()
    assert same(values(names["model"]), before)
