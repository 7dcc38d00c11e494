"""Laws of the model: its state, its inputs, its modes and its wrappers."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.contrast import MoCo, contrastive_logits, moco_step, symmetric_moco_step
from tests.contrast.test_algorithm_laws import WIDTH, build, normalizing, plain, same, sgd, values

BATCHNORM = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
LINEAR = {"0.weight", "0.bias", "3.weight", "3.bias"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def views(batch: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 6), torch.randn(batch, 6)


@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
def test_state_dict_is_both_encoders_and_the_queue(batchnorm: str) -> None:
    model = build(normalizing(), batchnorm=batchnorm)
    model.run_encoders_with(query=nn.Sequential(model.encoder_q), key=nn.Sequential(model.encoder_k))
    expected = {f"encoder_{side}.{name}" for side in "qk" for name in BATCHNORM | LINEAR}
    assert set(model.state_dict()) == expected | {"queue.keys_KC", "queue.pointer"}
    assert {name for name, _ in model.named_children()} == {"encoder_q", "encoder_k", "queue", "similarity"}


@pytest.mark.parametrize("step", [moco_step, symmetric_moco_step])
@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
def test_training_from_a_state_dict_continues_bitwise(batchnorm: str, step: Any) -> None:
    def walk(model: MoCo, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        torch.manual_seed(7)  # the inputs, and the order in which split groups see the keys
        return [step(model, *views(), optimizer)[0] for _ in range(4)]

    model = build(normalizing(), batchnorm=batchnorm)
    optimizer = sgd(model)
    for _ in range(3):
        step(model, *views(), optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    other = build(normalizing(), batchnorm=batchnorm)
    other_optimizer = sgd(other)
    assert not same(values(model), values(other))
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other.load_state_dict(saved["model"])
    other_optimizer.load_state_dict(saved["optimizer"])
    assert walk(model, optimizer) == walk(other, other_optimizer)
    assert same(values(model), values(other))


class TwoInputs(nn.Module):
    """Takes a tuple or a dict of two tensors whose rows belong together, and refuses rows that were torn apart."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, batch: Any) -> Tensor:
        left, right = batch.values() if isinstance(batch, dict) else batch
        assert torch.equal(left[:, 0], right[:, 0])
        embeddings: Tensor = self.body(torch.cat([left, right[:, 1:]], dim=1))
        return embeddings


@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_batches_of_several_tensors_train_as_one_tensor_does(kind: str, batchnorm: str) -> None:
    def parts(x: Tensor) -> Any:
        left, right = x[:, :3], torch.cat([x[:, :1], x[:, 3:]], dim=1)
        return (left, right) if kind == "tuple" else {"left": left, "right": right}

    body = normalizing()
    model = build(copy.deepcopy(body), batchnorm=batchnorm)
    other = build(TwoInputs(body), batchnorm=batchnorm)
    other.queue.load_state_dict(model.queue.state_dict())
    optimizer, other_optimizer = sgd(model), sgd(other)
    for seed in range(3):
        x_1, x_2 = views(9)
        torch.manual_seed(seed)
        loss, _ = moco_step(model, x_1, x_2, optimizer)
        torch.manual_seed(seed)
        assert torch.equal(moco_step(other, parts(x_1), parts(x_2), other_optimizer)[0], loss)
    assert torch.equal(model.queue.keys_KC, other.queue.keys_KC)


@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
def test_evaluation_leaves_batchnorm_statistics_alone(batchnorm: str) -> None:
    model = build(normalizing(), batchnorm=batchnorm)
    moco_step(model, *views(), sgd(model))
    before = values(model)
    model.eval()
    x = torch.randn(1, 6)  # one sample is enough, as its statistics do not count
    with torch.no_grad():
        torch.testing.assert_close(model.query(x), nn.functional.normalize(model.encoder_q(x), dim=1))
        torch.testing.assert_close(model.key(x), nn.functional.normalize(model.encoder_k(x), dim=1))
    assert same(values(model), before)
    model.train()
    model.query(views()[0])
    assert not torch.equal(model.encoder_q[1].running_mean, before["encoder_q.1.running_mean"])


def test_an_averaged_key_encoder_always_infers() -> None:
    model = build(normalizing(), batchnorm="average")
    for mode in (True, False, True):
        model.train(mode)
        assert model.encoder_q.training is mode
        assert not model.encoder_k.training
    before = values(model.encoder_k)
    model.key(views()[0])
    assert same(values(model.encoder_k), before)


def test_split_queries_come_back_in_their_own_order() -> None:
    encoder = normalizing()
    model = build(copy.deepcopy(encoder), batchnorm="split", split_groups=3)
    x = torch.randn(11, 6)
    q_NC = model.query(x)
    for g in range(3):
        torch.testing.assert_close(q_NC[g::3], nn.functional.normalize(encoder(x[g::3]), dim=1))


def test_a_splits_keys_keep_other_company_than_its_queries() -> None:
    model = build(normalizing(), batchnorm="split", split_groups=4)
    seen: dict[str, Tensor] = {}
    for side in ("encoder_q", "encoder_k"):
        getattr(model, side)[0].register_forward_pre_hook(lambda _module, args, side=side: seen.update({side: args[0]}))
    x = torch.randn(16, 6)
    x[:, 0] = torch.arange(16)
    unchanged, companies = 0, set()
    for _ in range(20):
        model.query(x)
        model.key(x)
        query_groups, key_groups = (
            {frozenset(group[:, 0].tolist()) for group in seen[side].chunk(4)} for side in ("encoder_q", "encoder_k")
        )
        assert query_groups == {frozenset(range(g, 16, 4)) for g in range(4)}
        assert set().union(*key_groups) == set(range(16))
        unchanged += len(query_groups & key_groups)
        companies |= key_groups
    assert unchanged <= 4  # of 80 groups; by chance alone less than one
    assert len(companies) > 60  # a new draw at each step


def wrapped(model: MoCo, calls: list[str]) -> MoCo:
    def query(batch: Any) -> Tensor:
        calls.append("query")
        return 1.0 * model.encoder_q(batch)  # type: ignore[no-any-return]

    def key(batch: Any) -> Tensor:
        calls.append("key")
        return 1.0 * model.encoder_k(batch)  # type: ignore[no-any-return]

    model.run_encoders_with(query=query, key=key)
    return model


@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
def test_wrappers_run_the_encoders_and_stay_out_of_the_model(batchnorm: str) -> None:
    calls: list[str] = []
    model = build(normalizing(), batchnorm=batchnorm)
    before = set(model.state_dict()), len(list(model.modules()))
    moco_step(wrapped(model, calls), *views(), sgd(model))
    assert calls == ["query", "key"]
    assert (set(model.state_dict()), len(list(model.modules()))) == before


@pytest.mark.parametrize("wrap", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_runs_its_own_encoders(how: Any, wrap: bool) -> None:
    """A wrapper closes over the original's encoders: a copy that kept it would train the original."""
    calls: list[str] = []
    model = build(plain())
    other = how(wrapped(model, calls) if wrap else model)
    assert same(values(model), values(other))
    x_1, x_2 = views()
    with torch.no_grad():
        for p in [*other.encoder_q.parameters(), *other.encoder_k.parameters()]:
            p.add_(torch.randn_like(p))
        for embeddings, encoder in ((other.query(x_1), other.encoder_q), (other.key(x_1), other.encoder_k)):
            torch.testing.assert_close(embeddings, nn.functional.normalize(encoder(x_1), dim=1))
    before = values(model)
    moco_step(other, x_1, x_2, sgd(other))
    assert same(values(model), before)
    assert calls == []
    assert all(p.grad is None for p in model.parameters())
    moco_step(model, x_1, x_2, sgd(model))
    assert calls == (["query", "key"] if wrap else [])  # the original keeps its wrappers


def test_logits_for_inspection_have_the_losss_precision() -> None:
    q_NC, k_NC, keys_KC = (nn.functional.normalize(torch.randn(4, WIDTH), dim=1) for _ in range(3))
    exact = contrastive_logits(q_NC, k_NC, keys_KC, temperature=0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_logits(q_NC, k_NC, keys_KC, temperature=0.07), exact)
    wide = contrastive_logits(q_NC.double(), k_NC.double(), keys_KC, temperature=0.07)  # the queue is float32
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), exact)
