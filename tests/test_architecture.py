"""The house rules, read from the source text: who may import whom, how long things are, what is not used at all.

A rule that must be broken for a good reason is broken here, in writing. The checkers are tested on small snippets at
the end of the file, so that no rule holds only because its checker sees nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.source_rules import (
    HEAVY,
    LAYERS,
    LAZY,
    LONGEST_FILE,
    LONGEST_FUNCTION,
    NETWORK,
    PACKAGE,
    ROOT,
    files,
    imports,
    long_functions,
    modules,
    names_used,
    room,
    start_up,
    undocumented,
    unsafe_reading,
    wrong_directions,
)

EVERYWHERE = ("src", "tests", "examples", "benchmarks")
OUTSIDE_TESTS = ("src", "examples", "benchmarks")


def by_file(checker: Callable[[str], Iterable[str]], *folders: str) -> list[str]:
    """What a checker of source text finds, with the file's name before it."""
    return [f"{p.relative_to(ROOT)}: {found}" for p in files(*folders) for found in checker(p.read_text("utf-8"))]


def test_every_room_has_a_place():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms == set().union(*LAYERS)


def test_imports_go_downward_only():
    found = [wrong for name, text, package in modules() for wrong in wrong_directions(text, name, is_package=package)]
    assert not found


def test_only_collective_speaks_with_other_processes():
    users = {name for name, text, _ in modules() if "torch.distributed" in names_used(text, name)}
    assert users == {"moco.contrast.collective"}


def test_lightning_stays_in_training():
    users = {name for name, text, _ in modules() for item in imports(text, name) if item.top.startswith("lightning")}
    assert users
    assert all(room(name) == "training" for name in users), users


def test_slow_libraries_are_imported_where_they_are_used():
    found = [
        f"{name}:{item.line} imports {item.name}"
        for name, text, _ in modules()
        for item in imports(text, name)
        if item.top in LAZY and not item.lazy and not item.typing
    ]
    assert not found


def test_the_command_answers_before_pytorch_is_loaded():
    loaded = start_up("moco.cli")
    assert set(loaded) >= {"moco", "moco.cli", "moco.config"}
    assert not {f"{name}: {item.name}" for name, found in loaded.items() for item in found if item.top in HEAVY}


def test_functions_are_short():
    assert not by_file(long_functions, *EVERYWHERE)


def test_files_are_short():
    lengths = {p.relative_to(ROOT): len(p.read_text("utf-8").splitlines()) for p in files(*EVERYWHERE)}
    assert not {path: length for path, length in lengths.items() if length > LONGEST_FILE}


def test_there_is_no_room_for_odds_and_ends():
    assert not [path for path in files(*EVERYWHERE) if "utils" in path.relative_to(ROOT).with_suffix("").parts]


def test_what_is_public_is_documented():
    assert not by_file(undocumented, "src")


def test_reading_a_file_never_runs_code():
    assert not by_file(unsafe_reading, *OUTSIDE_TESTS)


def test_tests_may_make_bad_files_but_read_tensors_only():
    assert not [found for found in by_file(unsafe_reading, "tests") if "torch.load" in found]


def test_nothing_of_ours_opens_a_connection():
    found = by_file(lambda text: {i.top for i in imports(text, "moco.x")} & NETWORK, *OUTSIDE_TESTS)
    assert not found


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("moco.training.loop", "from moco.contrast import MoCo", True),
        ("moco.training.loop", "from moco.training import checkpoint", True),
        ("moco.training.loop", "from . import checkpoint", True),
        ("moco.training.loop", "import torch", True),
        ("moco.training.loop", "import moco.evaluation.knn", False),
        ("moco.training.loop", "from .. import recipes", False),
        ("moco.training.loop", "from ..evaluation import knn", False),
        ("moco.training.loop", "from moco import pretrain", False),
        ("moco.training.loop", "def f():\n    from moco.recipes import v1", False),
        ("moco.training.loop", "if TYPE_CHECKING:\n    from moco.export.backbone import write_backbone", False),
        ("moco.training.loop", "importlib.import_module('moco.cli')", False),
        ("moco.contrast.loss", "from moco.contrast.momentum import ema_update_", True),
        ("moco.contrast.loss", "from moco.errors import ConfigError", False),
        ("moco.contrast.loss", "from moco.data.source import Source", False),
        ("moco.data.loader", "from moco.contrast import Queue", False),
        ("moco.data.loader", "from moco.encoder import Backbone", False),
        ("moco.evaluation.knn", "from moco.contrast import MoCo", False),
        ("moco.evaluation.knn", "from moco.errors import DataError", True),
        ("moco.errors", "from moco.version import __version__", False),
        ("moco.config", "from moco.errors import ConfigError", True),
        ("moco.summary", "from moco.pretraining import Pretraining", False),
        ("moco.cli", "from moco.commands import pretrain", True),
    ],
)
def test_the_direction_checker(module, line, allowed):
    assert (wrong_directions(line, module) == []) is allowed


def test_the_import_reader():
    text = "import a.b\nfrom c import d\ndef f():\n    import e\n"
    text += "if typing.TYPE_CHECKING:\n    import g\nelse:\n    import h"
    a, d, e, g, h = imports(text, "moco.x")
    assert [item.name for item in (a, d, e, g, h)] == ["a.b", "c.d", "e", "g", "h"]
    assert [item.lazy for item in (a, d, e, g, h)] == [False, False, True, False, False]
    assert [item.typing for item in (a, d, e, g, h)] == [False, False, False, True, False]
    assert [item.name for item in imports("from .a import b", "moco.data", is_package=True)] == ["moco.data.a.b"]


@pytest.mark.parametrize(
    "line",
    [
        "import torch.distributed as dist",
        "from torch import distributed",
        "from torch.distributed import barrier",
        "import torch\ntorch.distributed.barrier()",
        "def f():\n    import torch.distributed.nn",
    ],
)
def test_the_checker_of_names(line):
    assert "torch.distributed" in names_used(line)
    assert "torch.distributed" not in names_used("import torch\ntorch.distributions.Beta")


def test_the_checker_of_lengths():
    function = "def f():\n" + "    x = 1\n" * (LONGEST_FUNCTION - 1)
    assert not long_functions(function)
    assert long_functions(function + "    x = 2\n") == ["f has 41 lines"]
    assert long_functions("class C:\n    async " + function.replace("\n", "\n    ") + "    x = 2") == ["f has 41 lines"]


def test_the_checker_of_docstrings():
    text = (
        "class A:\n    def f(self): ...\n    def _g(self): ...\n    def forward(self): ...\ndef h(): ...\ndef _i(): ..."
    )
    assert undocumented(text) == ["module", "A", "A.f", "h"]
    assert not undocumented('"""M."""\ndef f():\n    """F."""\n    def inner(): ...')


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import dill",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=w)",
        "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=a)",
    ],
)
def test_the_checker_of_unsafe_reading(line):
    assert unsafe_reading(line)


def test_the_checker_lets_safe_reading_pass():
    text = "from pickle import UnpicklingError\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)"
    assert not unsafe_reading(text)
