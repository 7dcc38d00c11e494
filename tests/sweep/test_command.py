"""How `moco ablate` is written: typed values, the nearest names for mistakes, the same as from Python."""

from __future__ import annotations

import pytest

import moco
from moco.cli import main
from moco.errors import ConfigError
from moco.sweep import grid as grid_module


def test_mistakes_on_the_command_line_are_one_line_with_the_nearest_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, named in (
        ("momentum", "out"),
        ("momentun --out o", "momentum"),
        ("momentum --out o --set tmperature=1", "temperature"),
        ("momentum --out o --set temperature=warm", "temperature=warm"),
        ("momentum --out o --set head=mpl", "mlp"),
        ("momentum --out o --set head", "FIELD=VALUE"),
        ("momentum --out o --set head=mlp --set head=linear", "twice"),
        ("momentum --out o --values 0.5,fast", "key_momentum=fast"),
        ("momentum --out o --values quue=8", "queue"),
        ("v2 --out o --values 1", "v2"),
        ("momentum --out o --seeds one", "whole numbers"),
        ("momentum --out o --jbos 2", "--jobs"),
        ("momentum nowhere --out o", "nowhere"),
    ):
        assert main(["ablate", *arguments.split()]) == 2, arguments
        said = capsys.readouterr().err
        assert named in said, said
        assert said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_the_command_and_python_ask_for_the_same(monkeypatch):
    given = []

    def stop(settings, commands):
        given.append(settings)
        raise ConfigError("far enough")

    monkeypatch.setattr(grid_module.Grid, "prepare", stop)
    words = "--vary key-momentum=0.9,0.99 --vary head=mlp CIFAR10 --out grid --seeds 0,1 --set steps=7 --jobs 2"
    main(["ablate", *words.split(), "--set", "split-groups=null", "--minutes", "5", "--no-linear"])
    vary = {"key_momentum": [0.9, 0.99], "head": ["mlp"]}
    same = {"options": {"steps": 7, "split_groups": None}, "seeds": (0, 1), "jobs": 2, "minutes": 5, "linear": False}
    with pytest.raises(ConfigError):
        moco.ablate(None, "CIFAR10", out="grid", vary=vary, **same)
    command, python = given
    assert command.command.startswith("moco ablate --vary")
    assert {**vars(command), "command": None} == vars(python)
