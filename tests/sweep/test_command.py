"""How `moco ablate` is written: typed values, the nearest names for mistakes, the same as from Python."""

from __future__ import annotations

import pytest

import moco
from moco.cli import main
from moco.errors import ConfigError
from moco.sweep import grid as grid_module


def test_mistakes_on_the_command_line_are_one_line_with_the_nearest_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["momentun", "--out", "o"], "did you mean momentum?"),
        (["momentum"], "ablate without out"),
        (["momentum", "--out", "o", "--set", "tmperature=1"], "did you mean temperature, knn_temperature?"),
        (["momentum", "--out", "o", "--set", "temperature=warm"], "temperature=warm"),
        (["momentum", "--out", "o", "--set", "head=mpl"], "did you mean mlp?"),
        (["momentum", "--out", "o", "--set", "head"], "expected FIELD=VALUE"),
        (["momentum", "--out", "o", "--set", "head=mlp", "--set", "head=linear"], "given twice"),
        (["momentum", "--out", "o", "--values", "0.5,fast"], "key_momentum=fast"),
        (["momentum", "--out", "o", "--values", "quue=8"], "did you mean queue?"),
        (["v2", "--out", "o", "--values", "1"], "its rows are fixed"),
        (["--vary", "batchnorm=splitt", "--out", "o"], "did you mean split?"),
        (["--vary", "key_momentun=0.9", "--out", "o"], "did you mean key_momentum, "),
        (["momentum", "--out", "o", "--seeds", "one"], "expected whole numbers"),
        (["momentum", "--out", "o", "--jbos", "2"], "did you mean --jobs, "),
        (["momentum", "nowhere", "--out", "o"], "nowhere"),
    ):
        assert main(["ablate", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_the_command_and_python_ask_for_the_same(monkeypatch, tmp_path):
    asked = []

    def stop(settings, commands):
        asked.append(settings)
        raise ConfigError("far enough")

    monkeypatch.setattr(grid_module.Grid, "prepare", stop)
    main(
        [
            *("ablate", "--vary", "key-momentum=0.9,0.99", "--vary", "head=mlp", "CIFAR10", "--out", "grid"),
            *("--seeds", "0,1", "--set", "steps=7", "--set", "split-groups=null"),
            *("--jobs", "2", "--minutes", "5", "--no-linear"),
        ]
    )
    vary = {"key_momentum": [0.9, 0.99], "head": ["mlp"]}
    options = {"steps": 7, "split_groups": None}
    with pytest.raises(ConfigError):
        moco.ablate(
            None, "CIFAR10", out="grid", vary=vary, options=options, seeds=(0, 1), jobs=2, minutes=5, linear=False
        )
    command, python = asked
    assert command.command.startswith("moco ablate --vary")
    assert {**vars(command), "command": None} == vars(python)
