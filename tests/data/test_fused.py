"""Colours as one expression are those of the operations one after the other, and a compiler takes them whole."""

import dataclasses
import types

import numpy as np
import pytest
import torch

from moco.data import fused, photometric
from moco.data.arrays import ArraySource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.views import photometric_views, plan_views
from moco.pretraining import Pretraining
from moco.recipes import configure
from moco.training.run_folder import RunFolder
from moco.workload import view_recipe

SIZE = 20


def fuse(recipe):
    return dataclasses.replace(recipe, color="fused")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Shapes that came to the fused colours, which are not compiled here."""
    seen = []

    def colours(images, *given, **more):
        seen.append(tuple(images.shape))
        return fused.colours(images, *given, **more)

    monkeypatch.setattr(fused, "compiled", lambda: (colours, fused.normalized))
    return seen


@pytest.fixture
def crops():
    """With black, white and grey images, where hue and saturation are undefined."""
    made = torch.randint(0, 256, (2, 24, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made[:, 0], made[:, 1], made[:, 2] = 0, 255, 128
    return made


@pytest.mark.parametrize(
    "changes",
    [{}, {"hue": 0.5}, {"jitter_probability": 0.0}, {"jitter_probability": 1.0}, {"grayscale_probability": 1.0}],
)
@pytest.mark.parametrize("name", ["v1", "v2", "cifar", "v3"])
def test_fused_colours_are_the_exact_ones(crops, calls, name, changes):
    recipe = view_recipe(configure(name, changes))
    for seed in range(3):
        exact = photometric_views(crops, recipe, torch.Generator().manual_seed(seed))
        found = photometric_views(crops, fuse(recipe), torch.Generator().manual_seed(seed))
        for one, other in zip(exact, found, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-4)
            assert other.is_contiguous(memory_format=torch.channels_last)
    assert calls


def test_views_of_one_size_too(calls):
    images = torch.randint(0, 256, (9, 3, 30, 26), dtype=torch.uint8)
    recipe = view_recipe(configure("v2", {}))
    exact, found = (
        plan_views(images, one, SIZE, torch.Generator().manual_seed(1)).complete() for one in (recipe, fuse(recipe))
    )
    assert len(calls) >= 1
    for one, other in zip(exact, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-4)


def test_the_hue_alone():
    images = torch.rand(50, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    shifts = torch.linspace(-0.5, 0.5, 50)
    torch.testing.assert_close(fused.turned(images, shifts), photometric.adjust_hue(images, shifts), rtol=0, atol=1e-5)


def test_a_compiler_takes_them_without_a_break_and_a_second_batch_compiles_nothing():
    count = 12
    images = 255 * torch.rand(count, 3, SIZE, SIZE)
    chosen = torch.arange(count) % 3 == 0
    given = (torch.rand(4, 3, count), chosen.expand(4, count), torch.rand(count) - 0.5, chosen)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    colours, normalized = (
        torch.compile(part, dynamic=False, fullgraph=True, backend=backend)
        for part in (fused.colours, fused.normalized)
    )
    for first in (False, False):
        made = colours(images, *given, grayscale_first=first)
        torch.testing.assert_close(made, fused.colours(images, *given, grayscale_first=first))
        mean, std = torch.rand(3), 1 + torch.rand(3)
        torch.testing.assert_close(normalized(made, chosen, mean, std), fused.normalized(made, chosen, mean, std))
    assert len(graphs) == 2


@pytest.mark.parametrize(
    ("device", "color", "taken"), [("cpu", "exact", "exact"), ("cuda", "exact", "fused"), ("cuda", "fast", "fast")]
)
def test_only_exact_colours_on_a_gpu_are_compiled(device, color, taken):
    source = ArraySource(np.zeros((8, 12, 12, 3), np.uint8))
    recipe = view_recipe(configure("v2", {"color": color}))
    options = {"image_size": 8, "device": torch.device(device), "skipped": SkippedFiles()}
    order = EpochOrder(np.arange(8), batch_size=4, seed=0)
    assert ViewLoader(source, order, recipe, fuse=True, **options).planner.recipe.color == taken
    assert ViewLoader(source, order, recipe, **options).planner.recipe.color == color


@pytest.mark.parametrize(("compiled", "taken"), [("on", "fused"), ("off", "exact")])
def test_a_run_that_compiles_its_encoders_compiles_its_colours(photos, tmp_path, tiny, compiled, taken):
    config = configure("v2", {**tiny, "precision": "fp32", "layout": "contiguous", "compile": compiled})
    run = Pretraining.prepare(photos, config, RunFolder(tmp_path / "run"), quiet=True, start=0.0)
    gpu = types.SimpleNamespace(device=torch.device("cuda"), global_rank=0, world_size=1, is_global_zero=True)
    order = EpochOrder(np.arange(8), batch_size=4, seed=0)
    assert run._loader(gpu, order, SkippedFiles()).planner.recipe.color == taken
