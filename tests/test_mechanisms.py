"""Runs of each mechanism, from options to the run folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

import moco
from moco.cli import main
from moco.config import Config
from moco.errors import ArchitectureError, ConfigError
from moco.recipes import configure
from tests.conftest import StopAt
from tests.test_pretrain import losses, same

MECHANISMS = ("moco", "memory-bank", "end-to-end")
OTHERS = MECHANISMS[1:]


def fitted(tiny, mechanism):
    """The options of a small run, without those that the mechanism has not."""
    options = {**tiny, "mechanism": mechanism}
    if mechanism == "end-to-end":
        del options["dictionary_size"]
    return options


@pytest.mark.parametrize("mechanism", OTHERS)
@pytest.mark.parametrize("damaged", [False, True], ids=["all readable", "one damaged"])
def test_resume_is_bitwise_identical(photos, tmp_path, tiny, mechanism, damaged):
    if damaged:
        next(photos.rglob("*.jpg")).write_bytes(b"\xff\xd8 this is no JPEG")
    options = fitted(tiny, mechanism)
    whole = moco.pretrain(photos, out=tmp_path / "whole", quiet=True, **options)
    part = moco.pretrain(photos, out=tmp_path / "part", quiet=True, callbacks=[StopAt(3)], **options)
    assert not part.finished
    continued = moco.pretrain(out=tmp_path / "part", resume=True, quiet=True)
    assert continued.finished
    assert same(whole, continued)
    assert losses(whole) == losses(continued)
    assert whole.summary["pretext_accuracy"] == continued.summary["pretext_accuracy"]
    one, two = (torch.load(run.path / "checkpoints" / "last.pt", weights_only=True) for run in (whole, continued))
    assert one["model"].keys() == two["model"].keys()
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_run_says_what_it_was_and_its_weights_are_used_like_any(photos, tmp_path, tiny, mechanism):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **fitted(tiny, mechanism))
    assert run.summary["mechanism"] == mechanism
    assert run.summary["dictionary_size"] == (4 if mechanism == "end-to-end" else 10)
    assert 0 <= run.summary["pretext_accuracy"] <= 1
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["pretext_accuracy"] <= 1 for line in lines if "loss" in line)
    model = moco.load(run.path)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, model.feature_dim)
    stored = yaml.safe_load((run.path / "config.yaml").read_text())
    assert (stored["dictionary_size"] is None) is (mechanism == "end-to-end")
    assert (stored["key_momentum"] is None) is (mechanism != "moco")
    assert stored["bank_momentum"] == (0.5 if mechanism == "memory-bank" else None)


@pytest.mark.parametrize("mechanism", OTHERS)
def test_the_authors_layout_refuses_a_run_without_key_encoder(tmp_path, mechanism):
    images = np.random.default_rng(0).integers(0, 256, (12, 72, 72, 3), dtype=np.uint8)
    options = {
        "recipe": "v2",
        "backbone": "resnet18",
        "image_size": 72,
        "batch_size": 4,
        "embedding_dim": 8,
        "steps": 1,
    }
    options |= {"threads": 1, "workers": 1, "precision": "fp32", "mechanism": mechanism}
    options |= {"dictionary_size": 10} if mechanism == "memory-bank" else {}
    run = moco.pretrain(images, out=tmp_path / "run", quiet=True, **options)
    moco.export_weights(run.path, format="torchvision")
    with pytest.raises(ArchitectureError, match="key encoder"):
        moco.export_weights(run.path, format="moco")


@pytest.mark.parametrize("kind", ["folder", "array", "cached folder", "damaged"])
def test_the_banks_rows_are_those_of_the_images_that_were_seen(photos, tmp_path, tiny, kind):
    """Each row that changes in a step belongs to an image of that step, or to the one that replaced a damaged image."""
    options = {**fitted(tiny, "memory-bank"), "knn_evaluations": 0, "cache_gib": 1.0 if "cached" in kind else 0.0}
    data = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8) if kind == "array" else photos
    bad = sorted(photos.rglob("*.jpg"))[5]
    if kind == "damaged":
        bad.write_bytes(b"\xff\xd8 this is no JPEG")
    seen: list[int] = []

    class Watch(moco.Callback):
        def on_train_start(self, training):
            self.before = training.model.bank.embeddings_MC.clone()

        def on_step_end(self, training):
            now = training.model.bank.embeddings_MC
            seen.extend((now != self.before).any(dim=1).nonzero()[:, 0].tolist())
            self.before = now.clone()

    moco.pretrain(data, out=tmp_path / "run", quiet=True, callbacks=[Watch()], **options)
    assert len(seen) == 24
    assert (5 in seen) is (kind != "damaged")
    assert set(seen) | {5} == set(range(24)), "an epoch visits every image"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"mechanism": "end-to-end", "dictionary_size": 256}, "dictionary_size"),
        ({"mechanism": "end-to-end", "key_momentum": 0.9}, "key_momentum"),
        ({"mechanism": "memory-bank", "key_momentum": 0.9}, "key_momentum"),
        ({"bank_momentum": 0.5}, "bank_momentum"),
        ({"mechanism": "memory-bank", "bank_momentum": 1.5}, "bank_momentum"),
        ({"mechanism": "memory-bank", "dictionary_size": 0}, "dictionary_size"),
        ({"dictionary_size": None}, "dictionary_size"),
        ({"mechanism": "end-to-end", "symmetric": True}, "symmetric"),
        ({"mechanism": "memory-bank", "symmetric": True}, "symmetric"),
        ({"mechanism": "end-to-end", "batchnorm": "average"}, "batchnorm"),
        ({"mechanism": "memory-bank", "batchnorm": "shuffle", "devices": 2}, "batchnorm"),
        ({"mechanism": "end-to-end", "batch_size": 1}, "batch_size"),
        ({"mechanism": "queue"}, "mechanism"),
    ],
)
def test_options_that_a_mechanism_has_not_are_refused(options, field):
    with pytest.raises(ConfigError, match=field):
        configure("v2", options)


def test_a_dictionary_larger_than_the_bank_is_refused_with_nothing_written(photos, tmp_path, tiny):
    options = {**fitted(tiny, "memory-bank"), "dictionary_size": 19}
    with pytest.raises(ConfigError, match="dictionary_size=19 .* 18 images"):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, **options)
    assert not (tmp_path / "run").exists()
    assert moco.pretrain(photos, out=tmp_path / "run", quiet=True, **{**options, "dictionary_size": 18}).finished


def test_recipes_keep_what_the_mechanism_has_and_drop_the_rest():
    bank = configure("cifar", {"mechanism": "memory-bank"})
    assert (bank.dictionary_size, bank.key_momentum, bank.bank_momentum) == (4096, None, 0.5)
    ends = configure("cifar", {"mechanism": "end-to-end"})
    assert (ends.dictionary_size, ends.key_momentum, ends.bank_momentum) == (None, None, None)
    assert configure("cifar", {"mechanism": "moco"}) == configure("cifar", {})
    assert Config().mechanism == "moco"


@pytest.mark.parametrize("written_in", ["command line", "file", "file with a recipe"])
def test_the_command_fills_in_by_mechanism(capsys, tmp_path, written_in):
    arguments = ["--mechanism", "memory-bank"]
    if written_in != "command line":
        path = tmp_path / "options.yaml"
        path.write_text("mechanism: memory-bank\n" + ("recipe: cifar\n" if "recipe" in written_in else ""))
        arguments = ["--config", str(path)]
    with pytest.raises(SystemExit) as end:
        main(["pretrain", *arguments, "--print_config"])
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["key_momentum"], printed["bank_momentum"]) == (None, 0.5)
