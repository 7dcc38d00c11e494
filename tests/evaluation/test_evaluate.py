"""`moco evaluate`: figures of a run beside its baselines, and one line for each thing that cannot be measured."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import moco
from moco.cli import main
from moco.data.folder import FolderSource
from moco.data.patterns import matching
from moco.data.skipped import SkippedFiles
from moco.errors import ArchitectureError, ConfigError
from moco.evaluation.knn import knn_accuracy
from moco.evaluation.monitor import prepare_monitor
from moco.evaluation.verdict import Compared, verdict
from moco.export.load import load
from tests.evaluation.conftest import evaluate, quick


def test_knn_stands_beside_random_weights_raw_pixels_and_training_from_scratch(run, coloured):
    report = evaluate(run, coloured, baselines="all")
    kinds = [(row.network, row.measure, row.inputs) for row in report.rows]
    assert kinds == [
        ("run", "knn_top1", "features"),
        ("run", "knn_top1", "embeddings"),
        ("random_init", "knn_top1", "features"),
        ("pixels", "knn_top1", "pixels"),
        ("from_scratch", "classifier_top1", "images"),
    ]
    assert {d.baseline for d in report.differences} == {"random_init", "pixels", "from_scratch"}
    assert all(row.interval[0] <= row.mean <= row.interval[1] for row in report.rows)
    gain = report.value("knn_top1") - report.value("knn_top1", "random_init")
    assert report.differences[0].difference == pytest.approx(gain)
    assert "random weights" in str(report)


def test_the_last_line_is_the_verdict_on_the_differences(run, coloured):
    report = evaluate(run, coloured)
    outcomes = [Compared(row.baseline, row.verdict) for row in report.differences]
    assert [each.network for each in outcomes] == ["random_init", "pixels"]
    assert report.verdict == report.as_dict()["verdict"] == verdict(outcomes)
    assert str(report).splitlines()[-1] == f"verdict: {report.verdict}"
    assert evaluate(run, coloured, baselines="none").verdict is None
    options = {"protocol": "finetune", "label_fractions": [0.2, 1.0], "epochs": 1}
    assert "training from scratch at 0.2 of the labels" in evaluate(run, coloured, **options).verdict
    both = evaluate(run, coloured, protocol="linear", probe="both", probe_epochs=1, baselines="random")
    assert both.verdict.count("untrained") == 1


def test_the_knn_figure_is_that_of_the_saved_weights(run, coloured):
    model = load(run)
    features, labels = [], []
    for part in ("train", "test"):
        files = sorted((coloured / part).rglob("*.png"), key=lambda path: (path.parent.name, path.name.encode()))
        with torch.inference_mode():
            features.append(model(torch.stack([model.preprocess(path) for path in files])))
        labels.append(torch.tensor([("blue", "green", "red").index(path.parent.name) for path in files]))
    expected = knn_accuracy(features[0], labels[0], features[1], labels[1], num_neighbors=3, knn_temperature=0.07)
    report = evaluate(run, coloured, baselines="none")
    assert report.value("knn_top1", inputs="features") == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"protocol": "linear", "probe": "both", "probe_epochs": 1, "baselines": "random"},
        {"protocol": "finetune", "label_fractions": [0.5]},
    ],
)
def test_the_same_seed_gives_the_same_report(run, coloured, options):
    first, second = (evaluate(run, coloured, seeds=2, **options).as_dict() for _ in range(2))
    assert first["results"] == second["results"]
    assert first["differences"] == second["differences"]
    assert all(len(row["values"]) == 2 for row in first["results"])
    assert all(row["std"] is not None for row in first["results"])


def test_fast_and_paper_probe_agree_on_an_easy_set(run, coloured):
    report = evaluate(
        run, coloured, protocol="linear", probe="both", probe_epochs=20, learning_rates=[0.1, 1, 10], baselines="none"
    )
    assert report.value("linear_top1") > 0.8
    assert abs(report.value("linear_top1") - report.value("linear_paper_top1")) < 0.15


@pytest.mark.parametrize("rates", [[1e-12, 1.0], [1.0, 1e-12]])
def test_the_best_learning_rate_of_a_sweep_is_taken_wherever_it_stands(run, coloured, rates):
    options = {"protocol": "linear", "probe": "paper", "probe_epochs": 20, "baselines": "none"}
    assert evaluate(run, coloured, learning_rates=rates, **options).value("linear_paper_top1") > 0.7
    assert evaluate(run, coloured, learning_rates=[1e-12], **options).value("linear_paper_top1") < 0.7


def test_fine_tuning_learns_and_is_compared_at_each_share(run, coloured):
    report = evaluate(run, coloured, protocol="finetune", label_fractions=[0.2, 1.0], epochs=25)
    assert report.value("finetune_top1") > 0.8
    assert {(row.network, row.label_fraction) for row in report.rows} == {
        (network, share) for network in ("run", "from_scratch") for share in (0.2, 1.0)
    }
    assert "12 images" in next(row.how for row in report.rows if row.label_fraction == 0.2)
    compared = [(row.label_fraction, row.difference) for row in report.differences]
    assert compared == [
        (share, pytest.approx(figure(report, "run", share) - figure(report, "from_scratch", share)))
        for share in (0.2, 1.0)
    ]


def figure(report, network, share):
    (row,) = [row for row in report.rows if (row.network, row.label_fraction) == (network, share)]
    return row.values[0]


def test_scores_need_no_labels(run, coloured, tmp_path):
    for number, path in enumerate(sorted((coloured / "test").rglob("*.png"))):
        shutil.copy(path, tmp_path / f"{number}.png")
    report = moco.evaluate(run, train=tmp_path, **quick(protocol="scores"))
    names = {(row.network, row.inputs, row.measure) for row in report.rows}
    assert ("run", "embeddings", "effective_rank") in names
    assert 1 <= report.value("effective_rank", inputs="features") <= 24
    assert 0 < report.value("feature_std", inputs="features") <= 1
    assert "no labels used" in str(report)


def test_without_test_images_a_part_is_held_out_and_said(run, coloured):
    report = moco.evaluate(run, train=coloured / "train", **quick(baselines="none"))
    assert report.data["held_out"]
    assert (report.data["train_images"], report.data["test_images"]) == (48, 12)
    assert "held-out images" in str(report)


def test_a_share_to_hold_out_is_refused_where_the_data_has_test_images(run, tmp_path):
    images, labels = np.zeros((8, 16, 16, 3), dtype=np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images + 1, y_test=labels)
    with pytest.raises(ConfigError, match="held_out=0.5 would change nothing: .* has test images of its own"):
        moco.evaluate(run, train=tmp_path / "set.npz", held_out=0.5, quiet=True)


def test_several_labels_give_mean_average_precision(run, coloured, tmp_path):
    rows = ["path,labels"]
    for part in ("train", "test"):
        for path in sorted((coloured / part).rglob("*.png")):
            warm = "|warm" if path.parent.name == "red" else ""
            rows.append(f"{path},{path.parent.name}{warm}")
    (tmp_path / "many.csv").write_text("\n".join(rows))
    options = {"knn": {"baselines": "random"}, "linear": {"baselines": "none"}, "finetune": {"epochs": 12}}
    for protocol, measure in (("knn", "knn_map"), ("linear", "linear_map"), ("finetune", "finetune_map")):
        report = evaluate(run, coloured, protocol=protocol, labels=str(tmp_path / "many.csv"), **options[protocol])
        assert 0.5 < report.value(measure) <= 1
        assert report.data["classes"] == 4
    with pytest.raises(ConfigError, match="probe='paper' with several labels"):
        evaluate(run, coloured, protocol="linear", probe="paper", labels=str(tmp_path / "many.csv"))


def test_leaking_test_images_are_reported(run, coloured, tmp_path):
    shutil.copytree(coloured / "test", tmp_path / "test")
    shutil.copy(coloured / "train" / "red" / "3.png", tmp_path / "test" / "red" / "copy.png")
    report = moco.evaluate(run, train=coloured / "train", test=tmp_path / "test", **quick(baselines="none"))
    assert report.data["leaked_images"] == [["red/copy.png", "red/3.png"]]
    assert "red/copy.png = red/3.png" in str(report)


def test_an_architecture_is_measured_with_random_weights(coloured):
    report = moco.evaluate(
        "resnet_tiny", train=coloured / "train", test=coloured / "test", image_size=16, seeds=2, **quick()
    )
    assert len(report.rows[0].values) == 2
    assert report.network["trained"] is False
    assert [row.network for row in report.rows] == ["run", "pixels"]
    assert report.verdict.startswith("random weights, which have learnt nothing")


def test_training_from_scratch_is_asked_for(run, coloured):
    for protocol in ("knn", "linear"):
        report = evaluate(run, coloured, protocol=protocol)
        assert "from_scratch" not in {row.network for row in report.rows}
        assert "training from scratch left out" in str(report)
        report = evaluate(run, coloured, protocol=protocol, baselines="all")
        assert "from_scratch" in {row.network for row in report.rows}


def test_classes_that_patterns_have_left_out_are_not_missed(run, coloured):
    train, test = (matching(FolderSource(coloured / part), (), ["red"]) for part in ("train", "test"))
    report = moco.evaluate(run, train=train, test=test, **quick(baselines="none"))
    assert (report.data["classes"], report.data["train_images"]) == (2, 40)


def test_embeddings_of_another_step_are_left_out(run, coloured, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    state["model"]["encoder_q.backbone.conv1.weight"] += 1
    torch.save(state, last)
    report = evaluate(tmp_path / "run", coloured, baselines="none")
    assert [row.inputs for row in report.rows] == ["features"]
    assert "embeddings left out" in str(report)


def test_the_weights_file_alone_is_enough(run, coloured, tmp_path):
    shutil.copy(run / "backbone.safetensors", tmp_path / "mine.safetensors")
    alone = evaluate(tmp_path / "mine.safetensors", coloured, baselines="none")
    assert alone.value("knn_top1") == evaluate(run, coloured, baselines="none").value("knn_top1", inputs="features")


def test_the_command_prints_one_json_object_or_a_table(run, coloured, capsys):
    arguments = ["evaluate", str(run), "--train", str(coloured / "train"), "--test", str(coloured / "test")]
    arguments += ["--num-neighbors", "3", "--baselines", "random"]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["results"][0]["measure"] == "knn_top1"
    assert printed["data"]["test_images"] == 24
    assert main(arguments) == 0
    assert "95 % interval" in capsys.readouterr().out
    assert main([*arguments, "--protocol", "guess"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def jpeg_classes(root, part, count, seed):
    """Photographs of differing sizes, all larger than the network's, whose classes differ in the strength of red."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(("dark", "pale", "red")):
        (root / part / name).mkdir(parents=True)
        for item in range(count):
            height, width = generator.integers(90, 200, 2)
            coarse = generator.integers(0, 200, (6, 6, 3), dtype=np.uint8)
            coarse[..., 0] = np.minimum(255, coarse[..., 0].astype(int) // 2 + 50 * label)
            Image.fromarray(coarse).resize((width, height)).save(root / part / name / f"{item}.jpg")


def test_raw_pixels_are_those_of_the_monitor(run, tmp_path):
    jpeg_classes(tmp_path, "train", 20, 0)
    jpeg_classes(tmp_path, "test", 12, 1)
    report = evaluate(run, tmp_path, image_size=24)
    train, test = (FolderSource(tmp_path / part) for part in ("train", "test"))
    options = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "num_neighbors": 3, "knn_temperature": 0.07, "most_images": 100}
    asked = (train, np.arange(60), test, np.arange(36))
    monitor = prepare_monitor(*asked, image_size=24, seed=0, bf16=False, skipped=SkippedFiles(), **options)
    pixels = monitor.baselines(nn.Flatten())["knn_pixels"]
    assert report.value("knn_top1", "pixels") == pytest.approx(pixels)
    assert 0.34 < pixels < 1, "a figure that other features would change"


def test_knn_from_embedded_features_is_what_evaluate_reports(run, tmp_path):
    jpeg_classes(tmp_path, "train", 20, 0)
    jpeg_classes(tmp_path, "test", 12, 1)
    report = moco.evaluate(
        run, train=tmp_path / "train", test=tmp_path / "test", num_neighbors=5, baselines="none", quiet=True
    )
    features, labels = [], []
    for part in ("train", "test"):
        moco.embed(run, tmp_path / part, out=tmp_path / f"{part}.npz", quiet=True)
        with np.load(tmp_path / f"{part}.npz") as stored:
            features.append(torch.from_numpy(stored["features"]))
            labels.append(torch.tensor([("dark", "pale", "red").index(str(p).split("/")[0]) for p in stored["paths"]]))
    expected = knn_accuracy(features[0], labels[0], features[1], labels[1], num_neighbors=5, knn_temperature=0.07)
    assert 0.34 < expected < 1, "a figure that another preprocessing would change"
    assert report.value("knn_top1", inputs="features") == expected


def test_a_run_a_loaded_backbone_and_a_module_are_measured_as_the_path_is(run, coloured):
    by_path = evaluate(run, coloured, baselines="none").value("knn_top1", inputs="features")
    loaded = load(run)
    assert evaluate(moco.Run(run), coloured, baselines="none").value("knn_top1", inputs="features") == by_path
    assert evaluate(loaded, coloured, baselines="random").value("knn_top1") == by_path
    bare = evaluate(loaded.backbone, coloured, preprocessing=loaded.preprocess, baselines="random")
    assert bare.value("knn_top1") == by_path
    assert {row.network for row in bare.rows} == {"run", "random_init", "pixels"}
    with pytest.raises(ConfigError, match="preprocessing"):
        evaluate(loaded.backbone, coloured)


def test_a_run_whose_backbone_was_the_users_module_is_measured_with_its_baselines(coloured, tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    options = {"image_size": 16, "batch_size": 8, "dictionary_size": 16, "steps": 2, "knn_evaluations": 0}
    options["recipe"] = "v2"
    own = moco.pretrain(coloured / "train", out=tmp_path / "own", quiet=True, threads=1, backbone=module, **options)
    trained = {name: value.clone() for name, value in module.state_dict().items()}
    report = evaluate(own, coloured, baselines="all")
    assert [(row.network, row.inputs) for row in report.rows] == [
        ("run", "features"),
        ("run", "embeddings"),
        ("random_init", "features"),
        ("pixels", "pixels"),
        ("from_scratch", "images"),
    ]
    bare = evaluate(module, coloured, preprocessing=own.backbone.preprocess, baselines="none")
    assert report.value("knn_top1", inputs="features") == bare.value("knn_top1")
    assert all(torch.equal(value, trained[name]) for name, value in module.state_dict().items())
    with pytest.raises(ArchitectureError, match="module Sequential"):
        evaluate(own.path, coloured)
