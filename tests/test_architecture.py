"""The house rules, read from the source text: who may import whom, how long things are, what is not used at all.

The checkers are tested on small snippets at the end, so that no rule holds only because its checker sees nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

import pytest

from tests import source_rules as rules

EVERYWHERE = ("src", "tests", "examples", "benchmarks", "stress")
OUTSIDE_TESTS = ("src", "examples", "benchmarks", "stress")
MODULES = {name: (text, is_package) for name, text, is_package in rules.modules()}


def by_file(checker: Callable[[str], Iterable[str]], *folders: str) -> list[str]:
    """What a checker of source text finds, with the file's name before it."""
    found = {path.relative_to(rules.ROOT): checker(path.read_text("utf-8")) for path in rules.files(*folders)}
    return [f"{path}: {item}" for path, items in found.items() for item in items]


def distributed(text: str) -> set[str]:
    """Uses of torch.distributed."""
    return {name for name in rules.names_used(text) if name == "torch.distributed"}


def test_every_room_has_a_place():
    rooms = {p.stem for p in rules.PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert rooms == set().union(*rules.LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward_only(module):
    assert not rules.wrong_directions(MODULES[module][0], module, is_package=MODULES[module][1])


def test_every_room_of_transfer_has_a_place():
    """And no module of it lies outside one."""
    folder = rules.PACKAGE / "transfer"
    entries = {p.name for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__")}
    assert entries == set().union(*rules.TRANSFER)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("moco.transfer")])
def test_imports_within_transfer_go_downward_only(module):
    assert not rules.wrong_directions_in_transfer(MODULES[module][0], module, is_package=MODULES[module][1])


def test_no_module_needs_itself():
    assert not rules.circles(rules.import_graph(MODULES))


def test_only_collective_speaks_with_other_processes():
    speaking = {name for name, (text, _) in MODULES.items() if distributed(text)}
    assert speaking == {"moco.contrast.collective", "moco.training.processes"}, "nodes meet in the latter"


def test_lightning_stays_in_training():
    libraries = {"lightning", "lightning_fabric", "pytorch_lightning"}
    users = {n for n, (text, _) in MODULES.items() if any(i.top in libraries for i in rules.imports(text, n))}
    assert {rules.room(name) for name in users} == {"training"}, users


def test_slow_libraries_are_imported_where_they_are_used():
    found = [(name, item) for name, (text, _) in MODULES.items() for item in rules.imports(text, name)]
    assert not [(name, i.name) for name, i in found if i.top in rules.LAZY and not i.lazy and not i.typing]


@pytest.mark.parametrize("module", ["moco.cli", "moco.__main__", "moco.config", "moco.recipes"])
def test_help_and_configuration_load_no_pytorch(module):
    loaded = rules.start_up(module)
    assert set(loaded) >= {"moco", "moco.errors", module}
    assert not [(name, item.name) for name, found in loaded.items() for item in found if item.top in rules.HEAVY]


# Their signature and docstring are the help of a command and what an editor completes; bodies have 30 lines at most.
# An exact length each, so that none grows unseen.
LONG = {
    "src/moco/commands/ablate.py: ablate has 64 lines",
    "src/moco/commands/embed.py: embed has 59 lines",
    "src/moco/commands/evaluate.py: evaluate has 76 lines",
    "src/moco/commands/export.py: export_weights has 42 lines",
    "src/moco/commands/import_weights.py: import_weights has 46 lines",
    "src/moco/commands/neighbours.py: neighbours has 59 lines",
    "src/moco/commands/pack.py: pack has 43 lines",
    "src/moco/commands/pretrain.py: pretrain has 83 lines",
    "src/moco/commands/transfer.py: transfer has 90 lines",
}


def test_functions_are_short():
    assert set(by_file(rules.long_functions, *EVERYWHERE)) == LONG


def test_bodies_of_commands_are_short():
    for path, function in (entry.split(" has ")[0].split(": ") for entry in LONG):
        tree = ast.parse((rules.ROOT / path).read_text(encoding="utf-8"))
        found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
        assert found.end_lineno - found.body[0].end_lineno <= 30, function


def test_files_are_short():
    assert not by_file(lambda text: [n for n in [len(text.splitlines())] if n > rules.LONGEST_FILE], *EVERYWHERE)


def test_there_is_no_room_for_odds_and_ends():
    assert not [p for p in rules.files(*EVERYWHERE) if "utils" in p.relative_to(rules.ROOT).with_suffix("").parts]


def test_what_is_public_is_documented():
    assert not by_file(rules.undocumented, "src")


def test_reading_a_file_never_runs_code():
    """Tests may make bad files, but they read tensors only."""
    assert not by_file(rules.unsafe_reading, *OUTSIDE_TESTS)
    assert not [found for found in by_file(rules.unsafe_reading, "tests") if "torch.load" in found]


def test_nothing_of_ours_opens_a_connection():
    assert not by_file(lambda text: {i.top for i in rules.imports(text, "moco.x")} & rules.NETWORK, *OUTSIDE_TESTS)


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("moco.training.loop", "from moco.contrast import MoCo", True),
        ("moco.training.loop", "from . import checkpoint", True),
        ("moco.training.loop", "import torch", True),
        ("moco.training.loop", "import moco.evaluation.knn", False),
        ("moco.training.loop", "from ..evaluation import knn", False),
        ("moco.training.loop", "from moco import pretrain", False),
        ("moco.training.loop", "def f():\n    from moco.sweep import grid", False),
        ("moco.training.loop", "if TYPE_CHECKING:\n    from moco.export.backbone import write_backbone", False),
        ("moco.training.loop", "importlib.import_module('moco.cli')", False),
        ("moco.training.pretrain", "from moco.evaluation.monitor import Monitor", True),
        ("moco.training.pretrain", "from moco.commands.pretrain import Run", False),
        ("moco.contrast.loss", "from moco.errors import ConfigError", False),
        ("moco.contrast.loss", "from moco.data.source import open_source", False),
        ("moco.data.loader", "from moco.encoder import Backbone", False),
        ("moco.data.views", "from moco.config import Config", True),
        ("moco.evaluation.knn", "from moco.contrast import MoCo", False),
        ("moco.evaluation.knn", "from moco.config import Config", False),
        ("moco.evaluation.knn", "from moco.errors import DataError", True),
        ("moco.errors", "from moco.version import __version__", False),
        ("moco.config", "from moco.recipes import v1", False),
        ("moco.cli.main", "from moco.commands import pretrain", True),
    ],
)
def test_the_direction_checker(module, line, allowed):
    assert (rules.wrong_directions(line, module) == []) is allowed


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("moco.transfer.detection.lvis", "from moco.transfer.detection.images import Batch", True),
        ("moco.transfer.dense_pose.densepose", "from moco.transfer.detection.images import Batch", True),
        ("moco.transfer.detection.images", "from ..networks import c4", True),
        ("moco.transfer.detection.images", "from moco.transfer.semantic.pairs import TrainPairs", False),
        ("moco.transfer.networks.c4", "def f():\n    from moco.transfer.detection import images", False),
        ("moco.transfer.fine_tuning.task", "from moco.transfer.detection.images import Batch", False),
        ("moco.transfer", "from moco.transfer.fine_tuning import task", False),
    ],
)
def test_the_direction_checker_within_transfer(module, line, allowed):
    assert (rules.wrong_directions_in_transfer(line, module) == []) is allowed


def test_the_import_reader():
    text = "import a.b\nfrom c import d\ndef f():\n    import e\n"
    text += "if typing.TYPE_CHECKING:\n    import g\nelse:\n    import h"
    found = rules.imports(text, "moco.x")
    assert [item.name for item in found] == ["a.b", "c.d", "e", "g", "h"]
    assert [item.name for item in found if item.lazy] == ["e"]
    assert [item.name for item in found if item.typing] == ["g"]
    assert [item.name for item in rules.imports("from .a import b", "moco.data", is_package=True)] == ["moco.data.a.b"]


@pytest.mark.parametrize(("line", "circle"), [("from m.b import x", True), ("def f():\n    import m.b", False)])
def test_the_checker_of_circles(line, circle):
    texts = {"m": ("", True), "m.a": (line, False), "m.b": ("from . import c", False), "m.c": ("import m.a", False)}
    found = rules.circles(rules.import_graph(texts))
    assert [set(modules) for modules in found] == ([{"m.a", "m.b", "m.c"}] if circle else [])
    assert rules.circles(rules.import_graph(texts, every=True))


FORTY = "def f():\n" + "    x = 1\n" * 39
SAFE = "from pickle import UnpicklingError\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)"


@pytest.mark.parametrize(
    ("checker", "wrong", "right"),
    [
        (distributed, "import torch.distributed as d", "import torch\ntorch.distributions.Beta"),
        (distributed, "import torch\ntorch.distributed.barrier()", "import torch"),
        (rules.long_functions, FORTY + "    x = 2\n", FORTY),
        (rules.undocumented, '"""M."""\nclass A:\n    """A."""\n    def f(self): ...', '"""M."""\ndef _g(): ...'),
        (rules.undocumented, "", '"""M."""\ndef f():\n    """F."""\n    def inner(): ...'),
        (rules.unsafe_reading, "from pickle import loads", SAFE),
        (rules.unsafe_reading, "torch.load(p)", SAFE),
        (rules.unsafe_reading, "torch.load(p, weights_only=w)", SAFE),
        (rules.unsafe_reading, "np.load(p, allow_pickle=a)", SAFE),
    ],
)
def test_the_checkers_see_what_is_wrong_and_nothing_else(checker, wrong, right):
    assert checker(wrong)
    assert not checker(right)
