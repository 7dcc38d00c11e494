"""What a run costs is counted by definition, once, and adds up over parts and ranks."""

from __future__ import annotations

import json

import pytest
import torch
from tests.conftest import StopAt
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import moco
from moco.recipes import configure
from moco.training.checkpoint import Position
from moco.training.cost import Cost, counted, measured_peak
from moco.training.device import make_fabric
from moco.training.metrics import Progress
from moco.training.summary import cost_in_words

CPU = torch.device("cpu")


def flops(make) -> int:
    with counted() as counter:
        make()
    return counter.get_total_flops()


def test_a_linear_layer_costs_two_flops_a_weight_and_sample_each_way():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    assert flops(lambda: layer(x)) == 2 * 3 * 5 * 7
    assert flops(lambda: layer(x).sum().backward()) == 2 * (2 * 3 * 5 * 7), "the input needs no gradient"
    x.requires_grad_()
    assert flops(lambda: layer(x).sum().backward()) == 3 * (2 * 3 * 5 * 7)


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_a_convolution_costs_two_flops_a_weight_and_position_each_way(groups):
    layer, x = nn.Conv2d(8, 16, 3, groups=groups), torch.randn(2, 8, 10, 9, requires_grad=True)
    forward = 2 * 2 * (8 * 7) * 16 * (8 // groups) * 9
    assert flops(lambda: layer(x)) == forward
    assert flops(lambda: layer(x).sum().backward()) == 3 * forward


def test_a_transposed_convolution_costs_as_much_for_each_position_that_it_reads():
    layer, x = nn.ConvTranspose2d(8, 16, 3), torch.randn(2, 8, 10, 9, requires_grad=True)
    assert flops(lambda: layer(x).sum().backward()) == 3 * (2 * 2 * (10 * 9) * 8 * 16 * 9)


def test_attention_costs_two_products_forward_and_five_backward():
    """PyTorch's kernels compute the scores again in the backward pass."""
    q = torch.randn(2, 4, 64, 16, requires_grad=True)
    product = 2 * (2 * 4) * 64 * 64 * 16
    assert flops(lambda: scaled_dot_product_attention(q, q, q)) == 2 * product
    assert flops(lambda: scaled_dot_product_attention(q, q, q).sum().backward()) == 7 * product


class Flat(nn.Module):
    """One linear layer on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


# Forward, for 4 samples: the layer, its linear head of 8, and a product of queries with 10 keys.
FIRST, HEAD, LOSS = 2 * 4 * 768 * 6, 2 * 4 * 6 * 8, 2 * 4 * 8 * 10


def linear_run(photos, out, tiny, **options):
    more = {"backbone": Flat(), "head": "linear", "quiet": True, "knn_evaluations": 0, "precision": "fp32"}
    return moco.pretrain(photos, out=out, **{**tiny, **more, **options})


def test_a_runs_flops_are_those_of_its_layers_times_steps(photos, tmp_path, tiny):
    summary = linear_run(photos, tmp_path / "run", tiny).summary
    known = 6 * ((2 + 1) * FIRST + (3 + 1) * HEAD)
    assert known < summary["flops"] <= known + 6 * 3 * LOSS, "and of the loss, which has two or three products"
    assert summary["images_seen"] == 6 * 4


class Convolved(nn.Module):
    """One convolution, and its mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).mean(dim=(2, 3))


def test_steps_with_smaller_views_cost_less(photos, tmp_path, tiny):
    whole = linear_run(photos, tmp_path / "whole", tiny, backbone=Convolved()).summary["flops"]
    options = {"backbone": Convolved(), "progressive_resolution": "8:0.5"}
    smaller = linear_run(photos, tmp_path / "smaller", tiny, **options).summary["flops"]
    step = 3 * 2 * 4 * (16 * 16) * 6 * 3 * 9  # forward of f_q and f_k, gradient of the weights
    assert whole - smaller == 3 * step * 3 / 4, "three of six steps with a quarter of the pixels"


def test_what_is_computed_again_counts_again(photos, tmp_path, tiny):
    plain = linear_run(photos, tmp_path / "plain", tiny).summary["flops"]
    chunks = linear_run(photos, tmp_path / "chunks", tiny, chunk_size=2).summary["flops"]
    assert chunks - plain == 6 * FIRST, "nothing in the backward pass needs what the last layer returned"


def test_a_resumed_run_has_cost_what_a_whole_one_has(photos, tmp_path, tiny):
    whole = linear_run(photos, tmp_path / "whole", tiny).summary
    part = linear_run(photos, tmp_path / "parts", tiny, callbacks=[StopAt(2)]).summary
    parts = moco.pretrain(out=tmp_path / "parts", resume=True, quiet=True, backbone=Flat()).summary
    assert 3 * part["flops"] == parts["flops"] == whole["flops"]
    assert parts["training_seconds"] > part["training_seconds"]
    for summary in (whole, part, parts):
        able = summary["peak_flops_per_second"] * summary["training_seconds"]
        assert summary["share_of_peak"] == pytest.approx(summary["flops"] / able)


def test_steps_of_another_kind_are_counted_anew():
    position, layer = Position(), nn.Linear(5, 7)
    cost = Cost(make_fabric(configure("v2", {"accelerator": "cpu", "precision": "fp32"})), position, bf16=False)
    with Progress(100, 0, show=False) as progress:
        for samples in (3, 3, 6, 3):
            view = torch.randn(samples, 5)
            with cost.step(progress, view.shape):
                layer(view)
    assert position.flops == (3 + 3 + 6 + 3) * 2 * 5 * 7
    peak = measured_peak(CPU, torch.get_num_threads(), bf16=False)
    assert position.capacity / position.seconds == pytest.approx(peak)


def test_the_peak_leaves_random_numbers_and_precision_alone():
    state = torch.get_rng_state()
    before = torch.get_float32_matmul_precision()
    assert measured_peak(CPU, 1, bf16=False) > 1e8
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == before


def test_the_cost_is_a_line_at_the_end(photos, tmp_path, tiny, capsys):
    run = linear_run(photos, tmp_path / "run", tiny, quiet=False)
    assert cost_in_words(json.loads((run.path / "summary.json").read_text())) in capsys.readouterr().err
    said = cost_in_words({"flops": 42 * 10**13, "peak_flops_per_second": 1.3e12, "share_of_peak": 0.314})
    assert said == "420 TFLOP, 31% of the measured peak 1.3 TFLOP/s"
    assert cost_in_words({"flops": 0, "peak_flops_per_second": 1e9, "share_of_peak": 0.0}).startswith("0 FLOP")
