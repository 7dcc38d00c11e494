"""A few steps driven by hand equal the NumPy transcription of Algorithm 1: losses, logits, queue and both encoders.

Own encoder, own initial weights, own queue, own inputs, SGD with momentum and weight decay, no BatchNorm cure: what a
reader does who checks this package against the paper.

N: samples   C: embedding width   K: keys in the dictionary
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco.contrast import MoCo, contrastive_logits, moco_step, symmetric_moco_step
from tests.reference.algorithm_numpy import NumpyMoCo, encode, encode_gradient, unit

STEPS = 4
SEEDS = range(28)


@dataclasses.dataclass(frozen=True)
class Case:
    """One random configuration."""

    kind: str
    batch: int
    width: int
    size: int
    temperature: float
    key_momentum: float
    sgd_momentum: float
    weight_decay: float
    lr: float


def draw(seed: int) -> Case:
    """Kinds of encoder take turns, and so do K < N, K a multiple of N, and K no multiple of N."""
    generator = np.random.default_rng(seed)
    batch, width = int(generator.integers(1, 12)), int(generator.integers(2, 9))
    sizes = (int(generator.integers(1, batch + 1)), 3 * batch, 3 * batch + int(generator.integers(1, 1 + batch)))
    return Case(
        kind=("linear", "mlp", "conv")[seed % 3],
        batch=batch,
        width=width,
        size=sizes[seed // 3 % 3],
        temperature=float(generator.choice([0.07, 0.2, 0.5, 1.0])),
        key_momentum=float(generator.choice([0.0, 0.5, 0.9, 0.99, 0.999, 1.0])),
        sgd_momentum=float(generator.choice([0.0, 0.9])),
        weight_decay=float(generator.choice([0.0, 1e-4, 1e-2])),
        lr=float(generator.choice([0.003, 0.01, 0.03])),
    )


def own_encoder(case: Case) -> nn.Sequential:
    if case.kind == "linear":
        return nn.Sequential(nn.Linear(6, case.width))
    if case.kind == "mlp":
        return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, case.width))
    return nn.Sequential(nn.Conv2d(2, 3, (3, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 3 * 3, case.width))


def own_views(case: Case) -> list[Tensor]:
    """Two noisy views of the same samples."""
    shape = (case.batch, 2, 5, 4) if case.kind == "conv" else (case.batch, 6)
    samples = torch.randn(shape)
    return [samples + 0.3 * torch.randn(shape) for _ in range(2)]


def numpy_weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy().copy() for name, value in module.named_parameters()}


def build(case: Case, dtype: torch.dtype) -> tuple[MoCo, torch.optim.Optimizer, NumpyMoCo]:
    model = MoCo(
        own_encoder(case),
        dictionary_size=case.size,
        embedding_dim=case.width,
        key_momentum=case.key_momentum,
        temperature=case.temperature,
        batchnorm="none",
    ).to(dtype)
    model.queue.keys_KC.copy_(
        torch.from_numpy(unit(np.random.default_rng(case.size).normal(size=(case.size, case.width))))
    )
    optimizer = torch.optim.SGD(
        model.encoder_q.parameters(), lr=case.lr, momentum=case.sgd_momentum, weight_decay=case.weight_decay
    )
    twin = NumpyMoCo(
        numpy_weights(model.encoder_q),
        model.queue.keys_KC.numpy().copy(),
        temperature=case.temperature,
        key_momentum=case.key_momentum,
        lr=case.lr,
        sgd_momentum=case.sgd_momentum,
        weight_decay=case.weight_decay,
    )
    return model, optimizer, twin


def logits_before(model: MoCo, x_q: Tensor, x_k: Tensor) -> np.ndarray:
    with torch.no_grad():
        logits = contrastive_logits(
            model.query(x_q), model.key(x_k), model.queue.keys_KC, temperature=model.temperature
        )
    return logits.numpy()


def drive(seed: int, *, symmetric: bool, dtype: torch.dtype, close: Callable[[object, object], None]) -> None:
    torch.manual_seed(seed)
    case = draw(seed)
    model, optimizer, twin = build(case, dtype)
    step = symmetric_moco_step if symmetric else moco_step
    for number in range(STEPS):
        x_q, x_k = (view.to(dtype) for view in own_views(case))
        logits = logits_before(model, x_q, x_k)
        if symmetric:
            logits = np.concatenate([logits, logits_before(model, x_k, x_q)])
        loss, _ = step(model, x_q, x_k, optimizer)
        reference = twin.symmetric_step if symmetric else twin.step
        naive_loss, naive_logits = reference(x_q.double().numpy(), x_k.double().numpy())
        close(logits * case.temperature, naive_logits * case.temperature)  # to 1e-5 of their range, 1 / temperature
        close(loss.numpy(), naive_loss)
        close(model.queue.keys_KC.numpy(), twin.queue_KC)
        assert int(model.queue.pointer) == twin.pointer == (number + 1) * case.batch * (1 + symmetric) % case.size
        for ours, theirs in ((model.encoder_q, twin.f_q), (model.encoder_k, twin.f_k)):
            for name, value in numpy_weights(ours).items():
                close(value, theirs[name])


@pytest.mark.parametrize("symmetric", [False, True], ids=["step", "symmetric"])
@pytest.mark.parametrize("seed", SEEDS)
def test_hand_driven_steps_equal_the_transcription(seed: int, symmetric: bool) -> None:
    def close(ours: object, naive: object) -> None:
        np.testing.assert_allclose(ours, naive, rtol=1e-5, atol=1e-5)

    drive(seed, symmetric=symmetric, dtype=torch.float32, close=close)


@pytest.mark.parametrize("symmetric", [False, True], ids=["step", "symmetric"])
@pytest.mark.parametrize("seed", range(6))
def test_in_float64_only_rounding_is_left(seed: int, symmetric: bool) -> None:
    def close(ours: object, naive: object) -> None:
        np.testing.assert_allclose(ours, naive, rtol=1e-10, atol=1e-11)

    drive(seed, symmetric=symmetric, dtype=torch.float64, close=close)


def test_the_configurations_cover_what_they_claim() -> None:
    cases = [draw(seed) for seed in SEEDS]
    assert len(set(cases)) == len(cases) >= 20
    assert {case.kind for case in cases} == {"linear", "mlp", "conv"}
    assert any(case.batch > case.size for case in cases)
    assert any(case.size > case.batch > 1 and case.size % case.batch == 0 for case in cases)
    assert any(case.size > case.batch and case.size % case.batch for case in cases)
    assert {case.key_momentum for case in cases} >= {0.0, 0.999, 1.0}
    assert {case.temperature for case in cases} == {0.07, 0.2, 0.5, 1.0}
    assert {(case.sgd_momentum, case.weight_decay) for case in cases} >= {(0.9, 1e-4), (0.9, 1e-2), (0.0, 0.0)}


@pytest.mark.parametrize("kind", ["linear", "mlp", "conv"])
def test_the_transcriptions_own_gradients_are_slopes(kind: str) -> None:
    """Central differences, so that the twin does not lean on what it is to check."""
    torch.manual_seed(1)
    case = dataclasses.replace(draw(0), kind=kind, batch=3)
    weights, x = numpy_weights(own_encoder(case)), own_views(case)[0].double().numpy()
    upstream = np.random.default_rng(0).normal(size=(3, case.width))
    gradient = encode_gradient(weights, x, upstream)
    assert gradient.keys() == weights.keys()
    for name, value in weights.items():
        for place in np.ndindex(value.shape):
            heights = []
            for nudge in (1e-6, -1e-6):
                value[place] += nudge
                heights.append((encode(weights, x) * upstream).sum())
                value[place] -= nudge
            assert gradient[name][place] == pytest.approx((heights[0] - heights[1]) / 2e-6, rel=1e-5, abs=1e-6)
