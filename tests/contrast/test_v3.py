"""Laws of MoCo v3: what learns, what follows, what the loss is."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco.contrast import MoCoV3, in_batch_info_nce, moco_v3_step
from moco.encoder import v3_predictor, v3_projector
from tests.contrast.test_algorithm_laws import values
from tests.reference import v3_numpy

WIDTH = 5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def build(*, key_momentum: float = 0.9, temperature: float = 0.2, **modules: nn.Module) -> MoCoV3:
    encoder = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), v3_projector(7, WIDTH, head="v3-vit", hidden_dim=9))
    parts = {"encoder": encoder, "predictor": v3_predictor(WIDTH, head="v3-vit", hidden_dim=9), **modules}
    return MoCoV3(**parts, embedding_dim=WIDTH, key_momentum=key_momentum, temperature=temperature)


def sgd(model: MoCoV3) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.query_side.parameters(), lr=0.05, momentum=0.9)


def views(batch: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 6), torch.randn(batch, 6)


def test_steps_are_those_of_the_numpy_twin() -> None:
    encoder, predictor = nn.Linear(6, WIDTH, bias=False).double(), nn.Linear(WIDTH, WIDTH, bias=False).double()
    model = build(encoder=encoder, predictor=predictor, key_momentum=0.7, temperature=0.3)
    twin = v3_numpy.State(*(part.weight.detach().numpy().copy() for part in (encoder, encoder, predictor)))
    optimizer = torch.optim.SGD(model.query_side.parameters(), lr=0.5)
    for _ in range(5):
        x_1, x_2 = (x.double() for x in views())
        expected = v3_numpy.step(twin, x_1.numpy(), x_2.numpy(), temperature=0.3, key_momentum=0.7, rate=0.5)
        assert math.isclose(float(moco_v3_step(model, x_1, x_2, optimizer)[0]), expected, rel_tol=1e-10)
    for ours, theirs in (
        (model.encoder_q, twin.encoder_q),
        (model.encoder_k, twin.encoder_k),
        (model.predictor, twin.predictor),
    ):
        np.testing.assert_allclose(ours.weight.detach().numpy(), theirs, rtol=1e-10)


def test_state_dict_is_both_encoders_and_the_predictor() -> None:
    model = build()
    model.run_encoders_with(query=nn.Sequential(model.query_side), key=nn.Sequential(model.encoder_k))
    names = set(model.encoder_q.state_dict())
    assert set(model.state_dict()) == (
        {f"encoder_{side}.{name}" for side in "qk" for name in names}
        | {f"predictor.{name}" for name in model.predictor.state_dict()}
    )


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("batch", [64, 512])
def test_with_random_features_the_first_loss_is_4_temperature_log_batch(temperature: float, batch: int) -> None:
    """Embeddings of independent samples in 256 dimensions have similarities near 0."""
    encoder, predictor = (
        v3_projector(64, 256, head="v3-vit", hidden_dim=128),
        v3_predictor(256, head="v3-vit", hidden_dim=128),
    )
    model = MoCoV3(encoder, predictor, embedding_dim=256, key_momentum=0.99, temperature=temperature)
    loss, _ = moco_v3_step(model, torch.randn(batch, 64), torch.randn(batch, 64), sgd(model))
    assert math.isclose(float(loss), 4 * temperature * math.log(batch), rel_tol=0.04)


def test_the_loss_is_symmetric_in_the_views() -> None:
    model, (x_1, x_2) = build(), views()
    other = copy.deepcopy(model)
    torch.testing.assert_close(moco_v3_step(model, x_1, x_2, sgd(model)), moco_v3_step(other, x_2, x_1, sgd(other)))


def test_f_q_and_predictor_learn_and_f_k_follows_without_gradient() -> None:
    model = build(key_momentum=0.9)
    optimizer = sgd(model)
    before = values(model)
    moco_v3_step(model, *views(), optimizer)
    moco_v3_step(model, *views(), optimizer)
    assert all(parameter.grad is None for parameter in model.encoder_k.parameters())
    assert all(not parameter.requires_grad for parameter in model.encoder_k.parameters())
    for name, parameter in [*model.encoder_q.named_parameters(), *model.predictor.named_parameters()]:
        assert parameter.grad is not None, name
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_key_momentum_may_change_between_steps() -> None:
    model = build(key_momentum=0.5)
    optimizer = sgd(model)
    model.key_momentum = 1.0
    before = {name: value.clone() for name, value in model.encoder_k.named_parameters()}
    moco_v3_step(model, *views(), optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder_k.named_parameters())


def test_keys_have_statistics_of_their_own_and_no_predictor() -> None:
    model, (x_1, x_2) = build(), views()
    k_NC = model.key(x_1)
    torch.testing.assert_close(k_NC, nn.functional.normalize(copy.deepcopy(model.encoder_k)(x_1), dim=1))
    q_NC = model.query(x_2)
    torch.testing.assert_close(
        q_NC, nn.functional.normalize(copy.deepcopy(model.predictor)(copy.deepcopy(model.encoder_q)(x_2)), dim=1)
    )
    assert not k_NC.requires_grad
    assert q_NC.requires_grad
    statistics = {side: values(model)[f"encoder_{side}.2.1.running_mean"] for side in "qk"}
    assert not torch.equal(statistics["q"], statistics["k"])
    moco_v3_step(model, x_1, x_2, sgd(model))
    assert int(model.encoder_k[2][1].num_batches_tracked) == 3


def test_the_pretext_accuracy_is_the_mean_of_both_directions() -> None:
    model, (x_1, x_2) = build(), views()
    other = copy.deepcopy(model)
    pairs = ((other.query(x_1), other.key(x_2)), (other.query(x_2), other.key(x_1)))
    expected = torch.stack([in_batch_info_nce(q, k, temperature=0.2)[1] for q, k in pairs]).mean()
    assert torch.equal(moco_v3_step(model, x_1, x_2, sgd(model))[1], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"key_momentum": 1.5}, "key_momentum=1.5"), ({"temperature": 0.0}, "temperature=0.0")],
)
def test_bad_arguments_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)  # type: ignore[arg-type]


def test_batches_that_cannot_work_are_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match="at least 2 samples"):
        moco_v3_step(model, *views(1), sgd(model))
    plain = build(encoder=nn.Linear(6, WIDTH), predictor=nn.Linear(WIDTH, WIDTH))
    with pytest.raises(ValueError, match="need at least 2 samples"):
        moco_v3_step(plain, *views(1), sgd(plain))
    narrow = build(predictor=nn.Linear(WIDTH, 3))
    with pytest.raises(ValueError, match="expected"):
        moco_v3_step(narrow, *views(), sgd(narrow))
