"""`init`: a run that starts from trained weights, whatever they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import moco
from moco.cli.main import main
from moco.commands.starting_weights import open_starting_weights
from moco.config_file import read_config
from moco.errors import ArchitectureError, ConfigError
from moco.export.trained import trained_backbone

OPTIONS = {
    "image_size": 16,
    "batch_size": 8,
    "dictionary_size": 16,
    "steps": 4,
    "threads": 1,
    "workers": 0,
    "accelerator": "cpu",
    "num_neighbors": 3,
    "quiet": True,
    "recipe": "v2",
}


@pytest.fixture(scope="module")
def first(tmp_path_factory, photos_folder):
    """A run from random weights, whose statistics are not those of a new network."""
    out = tmp_path_factory.mktemp("first") / "run"
    return moco.pretrain(photos_folder, out=out, backbone="resnet_tiny", normalization="cifar", **OPTIONS)


@pytest.fixture(scope="module")
def photos_folder(tmp_path_factory):
    from tests.conftest import write_photos

    return write_photos(tmp_path_factory.mktemp("photos"))


def tensors(run: moco.Run, name: str = "backbone.safetensors") -> dict[str, torch.Tensor]:
    from moco.export.reading import read_safetensors

    return read_safetensors(run.path / name)[0]


def test_a_run_goes_on_from_another_and_keeps_its_statistics(first, photos_folder, tmp_path):
    run = moco.pretrain(photos_folder, out=tmp_path / "run", init=first, **OPTIONS)
    config = run.config
    assert (config.backbone, config.stem, config.init) == ("resnet_tiny", "3x3-stride2", str(first.path))
    assert (config.batchnorm, config.normalization) == ("frozen", "cifar")
    assert (config.base_learning_rate, config.warmup_steps) == (0.12, 0), "a fifth of 4 steps"
    before, after = tensors(first), tensors(run)
    learnt = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert config.frozen_layers == 0.3
    parameters = [name for name, _ in first.backbone.backbone.named_parameters()]
    layers = [name for name in parameters if before[name].ndim > 1]
    assert learnt == set(parameters[parameters.index(layers[int(0.3 * len(layers))]) :])
    assert run.backbone.preprocess == first.backbone.preprocess
    start = tensors(run, "best_backbone.safetensors") if run.summary["knn_best_step"] == 0 else before
    assert all(torch.equal(start[name], before[name]) for name in before)


def test_f_k_starts_equal_to_f_q(first, photos_folder, tmp_path):
    seen = {}

    class Look:
        def on_train_start(self, run):
            seen.update(q=run.model.encoder_q.state_dict(), k=run.model.encoder_k.state_dict())
            seen["equal"] = all(torch.equal(seen["k"][name], value) for name, value in seen["q"].items())
            seen["trained"] = torch.equal(
                seen["q"]["backbone.conv1.weight"].clone(), tensors(first)["conv1.weight"].clone()
            )

    moco.pretrain(photos_folder, out=tmp_path / "run", init=first.path, callbacks=[Look()], **OPTIONS)
    assert seen["equal"]
    assert seen["trained"]


def test_the_head_learns_alone_at_first(first, photos_folder, tmp_path):
    seen = []

    class Look:
        def on_step_end(self, run):
            encoder = run.model.encoder_q
            values = list(encoder.backbone.parameters())[-1], encoder.head[0].weight
            seen.append([value.detach().clone() for value in values])

    options = {**OPTIONS, "head_warmup_steps": 2, "warmup_steps": 0}
    run = moco.pretrain(photos_folder, out=tmp_path / "run", init=first, callbacks=[Look()], **options)
    backbone, head = zip(*seen, strict=True)
    assert torch.equal(backbone[1], list(first.backbone.backbone.parameters())[-1])
    assert not torch.equal(backbone[2], backbone[1])
    assert not torch.equal(head[1], head[0])
    assert run.config.head_warmup_steps == 2


def test_starting_weights_stand_beside_random_ones(first, photos_folder, tmp_path, capsys):
    options = {**OPTIONS, "quiet": False}
    run = moco.pretrain(photos_folder, out=tmp_path / "run", init=first.weights, **options)
    said, summary = capsys.readouterr().err, run.summary
    assert f"starting weights {summary['knn_starting_weights']:.1%}" in said
    assert summary["knn_starting_weights"] == pytest.approx(first.summary["knn_top1"])
    assert summary["knn_random_init"] == pytest.approx(first.summary["knn_random_init"])
    assert "its starting weights" in summary["verdict"]
    assert 0 <= summary["knn_best_step"] <= 4
    assert summary["knn_best"] >= summary["knn_starting_weights"]


def test_a_resumed_run_needs_its_starting_weights_no_more(first, photos_folder, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(first.weights.read_bytes())
    whole = moco.pretrain(photos_folder, out=tmp_path / "whole", init=weights, **OPTIONS)

    class Stop:
        def on_step_end(self, run):
            run.stop = run.step == 2

    moco.pretrain(photos_folder, out=tmp_path / "parts", init=weights, callbacks=[Stop()], **OPTIONS)
    weights.unlink()
    parts = moco.pretrain(out=tmp_path / "parts", resume=True, quiet=True)
    assert all(torch.equal(value, tensors(parts)[name]) for name, value in tensors(whole).items())
    for init in (first, "torchvision/resnet18"):
        with pytest.raises(ConfigError, match="has init=.*, not init="):
            moco.pretrain(out=tmp_path / "parts", init=init, resume=True, quiet=True)


class Small(nn.Module):
    """With a layer that has statistics, which no run must change."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images):
        return self.layers(images).flatten(1)


def trained_small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        small = Small()
        small(torch.randn(16, 3, 16, 16))
    return small


def test_a_trained_module_is_trained_further_in_place(photos_folder, tmp_path):
    module = trained_small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run = moco.pretrain(photos_folder, out=tmp_path / "run", init=module, **OPTIONS)
    after = module.state_dict()
    assert (run.config.backbone, run.config.init, run.config.batchnorm) == ("module/Small", "module", "frozen")
    assert torch.equal(after["layers.1.running_mean"], before["layers.1.running_mean"])
    assert not torch.equal(after["layers.0.weight"], before["layers.0.weight"])
    assert torch.equal(run.backbone.backbone.layers[0].weight, module.layers[0].weight)
    assert run.summary["knn_starting_weights"] is not None
    assert run.summary["knn_random_init"] is not None
    assert moco.pretrain(out=tmp_path / "run", init=module, resume=True, quiet=True).finished
    report = moco.evaluate(run, train=photos_folder, num_neighbors=3, device="cpu", quiet=True)
    assert "starting weights left out: a module that was handed over" in str(report)
    with pytest.raises(ConfigError, match="init='module' is a module that was handed over: hand it over again"):
        moco.pretrain(photos_folder, out=tmp_path / "again", init="module", **OPTIONS)


def test_a_fit_may_choose_the_image_size_of_a_module_but_not_of_small_stems(first):
    assert open_starting_weights(trained_small(), {}).any_size
    assert not open_starting_weights(first, {}).any_size


def test_a_trained_module_whose_state_is_no_tensor_is_refused(photos_folder, tmp_path):
    class Counting(Small):
        def get_extra_state(self):
            return {"steps": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ArchitectureError, match="keeps a dict as '_extra_state'"):
        moco.pretrain(photos_folder, out=tmp_path / "run", init=Counting(), **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_weights_of_a_factory_are_not_called_random(photos_folder, tmp_path):
    name = "tests.test_starting_weights:trained_small"
    plain = moco.pretrain(photos_folder, out=tmp_path / "plain", backbone=name, **OPTIONS)
    assert plain.summary["knn_starting_weights"] is not None, "nobody knows what a function returns"
    assert plain.config.batchnorm == "auto"
    kept = moco.pretrain(photos_folder, out=tmp_path / "kept", init=name, **OPTIONS)
    assert (kept.config.backbone, kept.config.batchnorm) == (name, "frozen")
    with pytest.raises(ArchitectureError, match="would be called"):
        trained_backbone(kept.weights)
    again = moco.pretrain(photos_folder, out=tmp_path / "again", init=kept.weights, backbone=name, **OPTIONS)
    assert again.config.backbone == name


def test_a_file_of_torchvision_and_its_own_weights_by_name(photos_folder, tmp_path, monkeypatch):
    import torchvision
    from torchvision.models import ResNet18_Weights

    torch.manual_seed(3)
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: network.state_dict())
    options = {**OPTIONS, "image_size": 40, "steps": 1, "knn_evaluations": 0}
    for init in (tmp_path / "resnet18.pth", "torchvision/resnet18", "resnet18"):
        model = trained_backbone(init)
        assert (model.architecture, model.stem, model.image_size) == ("torchvision/resnet18", "standard", 224)
        assert torch.equal(model.backbone.conv1.weight, network.conv1.weight)
    run = moco.pretrain(photos_folder, out=tmp_path / "run", init="resnet18", **options)
    assert (run.config.stem, run.config.image_size, run.config.normalization) == ("standard", 40, "imagenet")


def test_an_evaluation_shows_what_the_run_started_from(first, photos_folder, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(first.weights.read_bytes())
    run = moco.pretrain(photos_folder, out=tmp_path / "run", init=weights, **{**OPTIONS, "knn_evaluations": 0})
    asked = {"train": photos_folder, "num_neighbors": 3, "device": "cpu", "quiet": True}
    report, alone = moco.evaluate(run, **asked), moco.evaluate(first, **asked)
    started = next(row for row in report.rows if row.network == "starting_weights")
    assert started.values == next(row for row in alone.rows if row.network == "run").values
    assert "starting weights" in str(report)
    weights.unlink()
    assert "starting weights left out: " in str(moco.evaluate(run, **asked))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet_small"}, "backbone='resnet_small' with init=.*, whose backbone is resnet_tiny: leave"),
        ({"stem": "3x3-stride1"}, "stem='3x3-stride1' with init=.*, whose stem is 3x3-stride2: leave stem out"),
        ({"backbone": Small()}, "init beside a module as backbone"),
        ({"patience": 2, "knn_evaluations": 0}, "patience=2 with knn_evaluations=0"),
    ],
)
def test_what_contradicts_the_weights_is_refused_before_anything_is_written(
    first, photos_folder, tmp_path, options, message
):
    with pytest.raises(ConfigError, match=message):
        moco.pretrain(photos_folder, out=tmp_path / "run", init=first, **{**OPTIONS, **options})
    assert not (tmp_path / "run").exists()


def test_a_configuration_may_name_the_weights(first, photos_folder, tmp_path):
    config = moco.Config(
        **{k: v for k, v in OPTIONS.items() if k != "quiet"}, init=str(first.path), backbone="resnet_tiny", epochs=None
    )
    run = moco.pretrain(photos_folder, out=tmp_path / "run", config=config, quiet=True)
    assert (run.config.normalization, run.config.batchnorm) == ("cifar", "frozen")
    with pytest.raises(ConfigError, match="config with init"):
        moco.pretrain(photos_folder, config=config, init=first, quiet=True)


def test_on_the_command_line(first, photos_folder, tmp_path):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items() if name != "quiet"]
    out = ["--out", str(tmp_path / "run"), "--quiet"]
    assert main(["pretrain", str(photos_folder), "--init", str(first.path), *options, *out]) == 0
    config, _ = read_config(tmp_path / "run" / "config.yaml")
    assert (config.init, config.normalization) == (str(first.path), "cifar")
    again = ["pretrain", "--config", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert main(again) == 0
    run, repeated = (tensors(moco.Run(tmp_path / name)) for name in ("run", "again"))
    assert all(torch.equal(value, repeated[name]) for name, value in run.items())


def test_the_verdict_on_weights_that_got_worse_names_the_better_ones():
    from moco.evaluation.verdict import Compared, verdict

    said = verdict([Compared("starting_weights", "worse"), Compared("random_init", "better")])
    assert said.startswith("better than untrained, worse than its starting weights: best_backbone.safetensors has")
