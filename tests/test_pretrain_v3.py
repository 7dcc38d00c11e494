"""MoCo v3 as a run: recipes, schedules, resume, what is refused at the door."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import moco
from moco.errors import ArchitectureError, ConfigError
from moco.recipes import configure
from moco.training.schedule import key_momentum_at
from tests.conftest import StopAt

pytest.importorskip("timm")


@pytest.fixture
def tiny(tiny) -> dict[str, object]:
    """Options of a v3 run that takes a second."""
    return {**{k: v for k, v in tiny.items() if k != "dictionary_size"}, "recipe": "v3", "hidden_dim": 16}


@pytest.fixture
def tiny_vit(tiny) -> dict[str, object]:
    return {**tiny, "recipe": "v3-vit", "backbone": "v3/vit_tiny_patch8"}


def checkpoint(run: moco.Run) -> dict[str, torch.Tensor]:
    return torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)["model"]


def test_the_recipe_for_resnets_is_the_papers():
    config = configure("v3", {})
    assert (config.mechanism, config.head, config.backbone) == ("moco-v3", "v3-resnet", "resnet50")
    assert (config.batch_size, config.epochs, config.warmup_epochs, config.schedule_unit) == (4096, 100, 10, "step")
    assert (config.optimizer, config.weight_decay, config.sgd_momentum) == ("lars", 1e-6, 0.9)
    assert config.learning_rate == pytest.approx(0.6 * 16)
    assert (config.temperature, config.key_momentum, config.key_momentum_schedule) == (1.0, 0.99, "cosine")
    assert (config.crop_min, config.saturation, config.hue) == (0.2, 0.2, 0.1)
    assert (config.hidden_dim, config.embedding_dim, config.dictionary_size) == (4096, 256, None)
    assert config.zero_init_residual
    assert not config.freeze_patch_projection


def test_the_recipe_for_vits_is_the_papers():
    config = configure("v3-vit", {})
    assert (config.mechanism, config.head, config.backbone) == ("moco-v3", "v3-vit", "v3/vit_small")
    assert (config.batch_size, config.epochs, config.warmup_epochs) == (4096, 300, 40)
    assert (config.optimizer, config.weight_decay) == ("adamw", 0.1)
    assert config.learning_rate == pytest.approx(1.5e-4 * 16)
    assert (config.temperature, config.key_momentum, config.crop_min) == (0.2, 0.99, 0.08)
    assert config.freeze_patch_projection
    assert not config.zero_init_residual


def test_a_recipes_warm_up_fits_the_length_of_the_run():
    assert (configure("v3", {"steps": 500}).warmup_steps, configure("v3", {"steps": 500}).warmup_epochs) == (50, 0)
    assert configure("v3", {"epochs": 300}).warmup_epochs == 10
    assert configure("v3-vit", {"epochs": 20}).warmup_epochs == 5
    assert configure("v3", {"epochs": 2}).warmup_epochs == 0
    stated = configure("v3", {"warmup_steps": 7})
    assert (stated.warmup_steps, stated.warmup_epochs) == (7, 0)
    with pytest.raises(ConfigError, match="warmup_epochs=3"):
        configure("v3", {"steps": 50, "warmup_epochs": 3})
    with pytest.raises(ConfigError, match="warmup_epochs=5"):
        configure("v3", {"epochs": 5, "warmup_epochs": 5})


def test_key_momentum_rises_to_1_along_half_a_cosine():
    values = [key_momentum_at(step, total_steps=100, start=0.9) for step in range(101)]
    assert values[0] == pytest.approx(0.9)
    assert values[50] == pytest.approx(0.95)
    assert values[100] == 1.0
    assert values == sorted(values)
    assert values[25] == pytest.approx(1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2)


def test_warm_up_in_epochs_and_key_momentum_reach_the_steps(photos, tmp_path, tiny):
    seen = []

    class Watch(moco.Callback):
        def on_step_end(self, training):
            seen.append((training.optimizer.param_groups[0]["lr"], training.model.key_momentum))

    options = {**tiny, "steps": None, "epochs": 4, "callbacks": [Watch()]}
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **options)
    assert run.finished
    total, warm = len(seen), len(seen) // 4
    peak = 0.6 * 4 / 256
    assert [rate for rate, _ in seen[:warm]] == pytest.approx([peak * (n + 1) / warm for n in range(warm)])
    after = [peak * (1 + math.cos(math.pi * n / (total - warm))) / 2 for n in range(total - warm)]
    assert [rate for rate, _ in seen[warm:]] == pytest.approx(after)
    assert [m for _, m in seen] == pytest.approx(
        [key_momentum_at(n, total_steps=total, start=0.99) for n in range(total)]
    )


@pytest.mark.parametrize("kind", ["tiny", "tiny_vit"])
def test_a_run_leaves_weights_that_load_and_can_be_evaluated(photos, tmp_path, request, kind):
    options = request.getfixturevalue(kind)
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **options)
    assert run.finished
    assert run.summary["mechanism"] == "moco-v3"
    assert 0 <= run.summary["pretext_accuracy"] <= 1
    model = moco.load(run.path)
    weights, stored = load_file(run.weights), checkpoint(run)
    assert {name.partition(".")[0] for name in stored} == {"encoder_q", "encoder_k", "predictor"}
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, weights[name])
        assert torch.equal(value, stored[f"encoder_q.backbone.{name}"])
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, model.feature_dim)
    report = moco.evaluate(run.path, train=photos, held_out=0.5, num_neighbors=3, baselines="random", quiet=True)
    assert 0 <= report.value("knn_top1") <= 1


def test_the_patch_projection_stays_as_it_was_drawn(photos, tmp_path, tiny_vit):
    one, other = (
        checkpoint(moco.pretrain(photos, out=tmp_path / str(steps), quiet=True, **{**tiny_vit, "steps": steps}))
        for steps in (1, 5)
    )
    still = {name for name in one if name.startswith("encoder_q.") and torch.equal(one[name], other[name])}
    assert still >= {f"encoder_q.backbone.{name}" for name in ("patch_embed.proj.weight", "pos_embed")}
    assert not torch.equal(one["encoder_q.backbone.cls_token"], other["encoder_q.backbone.cls_token"])
    assert torch.equal(
        other["encoder_q.backbone.patch_embed.proj.weight"], other["encoder_k.backbone.patch_embed.proj.weight"]
    )


@pytest.mark.parametrize("kind", ["tiny", "tiny_vit"])
def test_resume_is_bitwise_identical(photos, tmp_path, request, kind):
    options = request.getfixturevalue(kind)
    whole = moco.pretrain(photos, out=tmp_path / "whole", quiet=True, **options)
    part = moco.pretrain(photos, out=tmp_path / "part", quiet=True, callbacks=[StopAt(3)], **options)
    assert not part.finished
    continued = moco.pretrain(out=tmp_path / "part", resume=True, quiet=True)
    assert continued.finished
    one, two = checkpoint(whole), checkpoint(continued)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    for key in ("loss", "pretext_accuracy", "knn_top1"):
        assert continued.summary[key] == whole.summary[key]


def test_the_first_loss_is_near_4_temperature_log_batch(tmp_path):
    """On the embedded picture book: 64 embeddings with BatchNorm at their end, in 256 dimensions."""
    options = {"backbone": "resnet_tiny", "image_size": 16, "hidden_dim": 32, "batch_size": 64, "steps": 1}
    run = moco.pretrain(out=tmp_path / "run", recipe="v3", quiet=True, knn_evaluations=0, threads=1, **options)
    assert run.summary["loss"] == pytest.approx(4 * math.log(64), rel=0.05)
    (line,) = [json.loads(text) for text in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert line["loss"] == run.summary["loss"]


def test_another_recipe_may_take_the_mechanism_and_v3_another_one(photos, tmp_path, tiny):
    config = configure("cifar", {"mechanism": "moco-v3"})
    assert (config.head, config.symmetric, config.split_groups, config.dictionary_size) == (
        "v3-resnet",
        True,
        None,
        None,
    )
    assert configure("v2", {"mechanism": "moco-v3", "backbone": "v3/vit_tiny"}).head == "v3-vit"
    config = configure("v3", {"mechanism": "moco"})
    assert (config.head, config.symmetric, config.dictionary_size) == ("mlp", False, 65536)
    assert configure("v3", {"mechanism": "end-to-end"}).key_momentum_schedule == "constant"
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **{**tiny, "recipe": "v2", "mechanism": "moco-v3"})
    assert run.finished


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"dictionary_size": 64}, ConfigError, "dictionary_size"),
        ({"symmetric": False}, ConfigError, "symmetric"),
        ({"batchnorm": "split"}, ConfigError, "batchnorm"),
        ({"batchnorm": "average"}, ConfigError, "batchnorm"),
        ({"split_groups": 2}, ConfigError, "split_groups"),
        ({"head": "mlp"}, ConfigError, "head"),
        ({"mechanism": "moco", "head": "v3-vit"}, ConfigError, "head"),
        ({"mechanism": "end-to-end", "key_momentum_schedule": "cosine"}, ConfigError, "key_momentum_schedule"),
        ({"batch_size": 1}, ConfigError, "batch_size"),
        ({"hidden_dim": 0}, ConfigError, "hidden_dim"),
        ({"mechanism": "moco", "head": "linear", "hidden_dim": 4}, ConfigError, "hidden_dim"),
        ({"freeze_patch_projection": True}, ArchitectureError, "freeze_patch_projection"),
        ({"backbone": "v3/vit_tiny"}, ArchitectureError, "zero_init_residual"),
        ({"backbone": "v3/vit_tiny", "image_size": 24}, ArchitectureError, "image_size"),
        ({"bank_momentum": 0.5}, ConfigError, "bank_momentum"),
    ],
)
def test_what_does_not_fit_is_refused_with_nothing_written(photos, tmp_path, tiny, change, error, field):
    with pytest.raises(error, match=field):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, **{**tiny, **change})
    assert not (tmp_path / "run").exists()


def test_the_start_says_what_the_mechanism_is(photos, tmp_path, tiny, capsys):
    moco.pretrain(photos, out=tmp_path / "run", **{**tiny, "steps": 1})
    said = capsys.readouterr().err
    assert "mechanism moco-v3: 3 negatives a query" in said
    assert "the loss begins near 5.55" in said
