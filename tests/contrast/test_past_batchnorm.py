"""The cure "average": keys by averages of f_k's own earlier batches, never by the company that they are in."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from moco.contrast import MoCo, moco_step, symmetric_moco_step
from moco.contrast.chunks import InChunks
from moco.contrast.past_batchnorm import PastBatchNorm, past_batchnorm
from tests.contrast.test_algorithm_laws import build, normalizing, same, sgd, values
from tests.reference.past_batchnorm import PastBatchNormReference


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def averaged() -> MoCo:
    return build(normalizing(), batchnorm="average")


def layer(model: MoCo) -> PastBatchNorm:
    (found,) = (part for part in model.encoder_k.modules() if isinstance(part, PastBatchNorm))
    return found


@pytest.mark.parametrize("momentum", [0.1, 0.4, None])
def test_the_layer_is_its_definition(momentum: float | None) -> None:
    plain = nn.BatchNorm1d(3, momentum=momentum, affine=False)
    made, reference = past_batchnorm(plain), PastBatchNormReference(3, momentum=momentum, eps=plain.eps)
    assert isinstance(made, PastBatchNorm)
    for passes, training in ((1, True), (2, True), (0, True), (1, False), (1, True), (3, True), (1, True)):
        made.train(training)
        for _ in range(passes):
            x = 2 + 3 * torch.randn(7, 3)
            expected = torch.tensor(reference.forward(x.tolist(), training=training))
            torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)
        made.absorb_()
        reference.absorb()
        torch.testing.assert_close(made.running_mean, torch.tensor(reference.means), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.running_var, torch.tensor(reference.variances), rtol=1e-4, atol=1e-5)
        assert made.num_batches_tracked == reference.steps


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_of_maps_are_those_of_plain_batchnorm(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    plain = nn.BatchNorm2d(5, momentum=1.0)
    made = past_batchnorm(copy.deepcopy(plain))
    x = (1 + torch.randn(6, 5, 4, 4)).to(dtype).contiguous(memory_format=memory_format)
    output, expected = made(x), plain(x)
    assert output.dtype == dtype
    assert output.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(output.float(), expected.float(), rtol=2e-2, atol=2e-2)  # which divides by N
    assert isinstance(made, PastBatchNorm)
    made.absorb_()
    torch.testing.assert_close(made.running_mean, plain.running_mean)
    torch.testing.assert_close(made.running_var, plain.running_var)


def test_a_key_does_not_depend_on_its_company_after_the_first_step() -> None:
    model = averaged()
    optimizer = sgd(model)
    x = torch.randn(8, 6)
    other = torch.cat([x[:1], 5 * torch.randn(7, 6)])
    assert not torch.equal(model.key(x)[0], model.key(other)[0])
    moco_step(model, torch.randn(8, 6), torch.randn(8, 6), optimizer)
    keys = [model.key(batch)[0] for batch in (x, other, x)]  # nor on a pass before it in the same step
    assert all(torch.equal(one, another) for one, another in itertools.pairwise(keys))


def test_trained_statistics_count_from_the_first_step() -> None:
    encoder = normalizing()
    for _ in range(3):
        encoder(1 + torch.randn(8, 6))
    model = build(encoder, batchnorm="average")
    x = torch.randn(8, 6)
    expected = nn.functional.normalize(copy.deepcopy(model.encoder_k).eval()(x), dim=1)
    torch.testing.assert_close(model.key(x), expected)


def test_both_views_of_a_symmetric_step_count_once_and_alike() -> None:
    model = averaged()
    x_1, x_2 = torch.randn(8, 6), torch.randn(8, 6)
    inputs: list[torch.Tensor] = []
    layer(model).register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    for _ in range(2):
        symmetric_moco_step(model, x_1, x_2, sgd(model))
    means = [(one.mean(dim=0) + other.mean(dim=0)) / 2 for one, other in zip(inputs[::2], inputs[1::2], strict=True)]
    assert layer(model).num_batches_tracked == 2
    torch.testing.assert_close(layer(model).running_mean, (means[0] + means[1]) / 2)


def test_chunks_are_encoded_as_the_whole_batch_is() -> None:
    model = averaged()
    moco_step(model, torch.randn(8, 6), torch.randn(8, 6), sgd(model))
    x = torch.randn(8, 6)
    whole = model.key(x)
    model.run_encoders_with(query=model.encoder_q, key=InChunks(model.encoder_k, 3))
    torch.testing.assert_close(model.key(x), whole)


def test_evaluation_gathers_nothing_and_dropout_stays_off() -> None:
    model = build(nn.Sequential(normalizing(), nn.Dropout(0.5)), batchnorm="average")
    x = torch.randn(8, 6)
    moco_step(model, x, x, sgd(model))
    assert torch.equal(model.key(x), model.key(x))
    model.eval()
    layer(model).absorb_()
    before = values(model)
    model.key(x)
    layer(model).absorb_()
    assert same(values(model), before)


def test_a_layer_without_statistics_is_refused() -> None:
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="track_running_stats=False"):
        build(encoder, batchnorm="average")


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_the_compiled_form_is_the_same() -> None:
    kernels = past_batchnorm(nn.BatchNorm2d(3))
    formula = copy.deepcopy(kernels)
    assert isinstance(kernels, PastBatchNorm)
    assert isinstance(formula, PastBatchNorm)
    torch.compiler.reset()
    compiled = torch.compile(formula, backend="aot_eager", dynamic=False, fullgraph=True)
    for _ in range(3):
        x = 2 + torch.randn(4, 3, 5, 5)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), kernels(x), rtol=1e-4, atol=1e-5)
        kernels.absorb_()
        formula.absorb_()
    for (name, left), right in zip(formula.named_buffers(), kernels.buffers(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, msg=name)
