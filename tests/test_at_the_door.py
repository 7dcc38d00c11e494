"""Absurd numbers, options that would change nothing, functions that only a file names: refused, and nothing written."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from PIL import Image

import moco
from moco.cli import main
from moco.config_file import read_config
from moco.errors import ArchitectureError, ConfigError, DataError, RunError
from tests.conftest import StopAt

NUMBERS = {
    name: kinds
    for name, hint in get_type_hints(moco.Config).items()
    if {int, float} & (kinds := {*get_args(hint), hint}) and name != "value_range" and bool not in kinds
}
COMMANDS = (
    "pretrain photos --recipe v2 --workers 10000",
    "pretrain photos --recipe v2 --threads 500",
    "pretrain photos --recipe v2 --batch-size 4 --dictionary-size 2000000000",
    "pretrain photos --recipe v2 --batch-size 4 --steps 9 --backbone resnet_tiny --num-neighbors 30",
    "pretrain photos --recipe v2 --schedule cosine --lr-decay 0.5",
    "pretrain photos --recipe v2 --steps 5 --head-warmup-steps 5",
    "pretrain photos --recipe v2 --test photos --held-out 0.3",
    "pretrain photos --recipe v2 --batch-size 4 --data-root elsewhere",
    "embed run photos --out x.npz --batch-size 1000000000000",
    "embed run photos --out x.npz --workers 10000",
    "neighbours run photos --out x.png --count 1000000000000",
    "neighbours run photos --out x.png --seed -1",
    "neighbours run photos --out x.png --seed 3 --query one.png",
    "pack photos --out x --short-side 1000000000000",
    "pack photos --out x --workers 10000",
    "pack photos --out x --format raw --quality 50",
    "pack photos --verify --short-side 50",
    "import one.pth --out x --image-size 1000000000000",
    "import one.pth --out x --num-heads 0",
    "evaluate run --image-size 1000000000000",
    "evaluate run --seed 18446744073709551616",
    "evaluate run --seeds 1000000000000",
    "evaluate run --knn-temperature inf",
    "evaluate run --protocol finetune --epochs 1000000000000",
    "evaluate run --protocol finetune --label-fractions 0.1,0.1",
    "evaluate run --protocol linear --probe paper --learning-rates 1e300",
    "ablate temperature photos --out x --jobs 0",
    "ablate temperature photos --out x --jobs 100000",
    "ablate temperature photos --out x --minutes inf",
    "ablate temperature photos --out x --seeds 99999999999999999999",
    "ablate photos --vary temperature=0.1,0.10 --out x",
)


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_of_a_configuration_can_be_absurd(name):
    options = {} if name in ("epochs", "steps") else {"steps": 3}
    for value in (-1, 2**64) if float not in NUMBERS[name] else (-1.0, 1e300, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=name):
            moco.Config(**{**options, name: value})


@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_work_is_one_line_with_nothing_written(command, photos, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    before = set(photos.parent.rglob("*"))
    assert main([*command.split(), *([] if command.startswith("import") else ["--quiet"])]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), set(photos.parent.rglob("*"))) == (1, before), said


def test_a_length_in_steps_needs_no_word_of_epochs():
    assert (moco.Config(steps=3).epochs, moco.Config().epochs, moco.Config(epochs=5).steps) == (None, 200, None)
    with pytest.raises(ConfigError, match="exactly one"):
        moco.Config(steps=3, epochs=4)


@pytest.mark.parametrize(
    "options", [{"labels": 3}, {"include": (3,)}, {"backbone": None}, {"lr_milestones": (0.5, 0.2)}]
)
def test_values_of_another_type_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        moco.Config(**options)
    assert moco.Config(test=Path("a"), labels=Path("b")).test == "a"


def test_what_an_earlier_version_ignored_is_still_read(tmp_path):
    from moco.config_file import write_config

    config = dataclasses.replace(moco.Config(steps=3), lr_decay=0.5)
    (tmp_path / "config.yaml").write_text(write_config(config, "photos"), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml")[0] == config


def test_a_transform_makes_views_of_the_runs_size_and_alone(photos, tiny, tmp_path):
    def transform(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(3, 20, 20), torch.rand(3, 20, 20)

    with pytest.raises(DataError, match="20 x 20 pixels, expected 16 x 16 .*image_size=20"):
        moco.pretrain(photos, out=tmp_path / "run", transform=transform, quiet=True, **tiny)
    with pytest.raises(ConfigError, match="hue with transform"):
        moco.pretrain(photos, out=tmp_path / "run", transform=transform, quiet=True, hue=0.2, **tiny)
    assert not (tmp_path / "run").exists()


def test_a_function_that_only_a_file_names_is_called_where_it_is_allowed(photos, tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_factory.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), "
        "torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    named = {**tiny, "backbone": "own_factory:make", "batchnorm": "auto"}
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **named)
    assert run.model is not None
    config, yaml = tmp_path / "run", str(tmp_path / "run" / "config.yaml")
    sys.modules.pop("own_factory")
    for command in (
        ["pretrain", "--out", str(config), "--resume", "--quiet"],
        ["pretrain", str(photos), "--config", yaml, "--out", str(tmp_path / "new"), "--quiet"],
    ):
        assert main(command) == 2
        assert "names the function own_factory:make" in capsys.readouterr().err
    with pytest.raises(ArchitectureError, match="allow_factory"):
        _ = moco.Run(config).model
    assert "own_factory" not in sys.modules
    assert main(["pretrain", "--out", str(config), "--resume", "--quiet", "--allow-factory"]) == 0


def test_an_unreadable_checkpoint_is_said_in_our_own_words(photos, tiny, tmp_path):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(2)], keep_checkpoints=1, **tiny)
    file = run.path / "checkpoints" / "last.pt"
    torch.save({"format": 1, "model": torch.nn.Linear(2, 2)}, file)
    for content in (file.read_bytes(), b"no checkpoint", b"", b"\x80\x02]q\x00."):
        file.write_bytes(content)
        with pytest.raises(RunError) as refused:
            moco.pretrain(out=run.path, resume=True, quiet=True)
        assert "weights_only" not in str(refused.value)
        assert refused.value.exit_code == 2


def test_a_run_that_breaks_off_ends_with_another_code_than_a_refused_one(photos, tiny, tmp_path, capsys):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in tiny.items()]
    diverging = [*options, "--base-learning-rate=1e6", "--weight-decay=1e6", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["pretrain", str(photos), *diverging]) == 1
    assert capsys.readouterr().err.count("\n") == 1
