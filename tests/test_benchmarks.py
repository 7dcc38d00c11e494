"""Benchmarks take from the package what it has: they are run by hand, so that a name that moved would go unseen."""

from __future__ import annotations

import ast
import importlib
import types
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").rglob("*.py"))


def missing_names(text: str) -> list[str]:
    """Names of moco, and attributes of its modules, that a program uses and that are not there."""
    tree, modules, missing = ast.parse(text), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "moco":
            home = importlib.import_module(node.module)
            for name in node.names:
                try:
                    found = getattr(home, name.name)
                except AttributeError:
                    try:
                        found = importlib.import_module(f"{node.module}.{name.name}")
                    except ImportError:
                        missing.append(f"{node.module}.{name.name}")
                        continue
                if isinstance(found, types.ModuleType):
                    modules[name.asname or name.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            home = modules[node.value.id]
            if not hasattr(home, node.attr):
                missing.append(f"{home.__name__}.{node.attr}")
    return missing


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_uses(path):
    assert missing_names(path.read_text(encoding="utf-8")) == []


def test_what_is_not_there_is_found():
    imports = "from moco.training import loop\nfrom moco.data.loader import ViewLoader, Gone\n"
    text = imports + "loop.train\nloop.make_optimizer\n"
    assert missing_names(text) == ["moco.data.loader.Gone", "moco.training.loop.make_optimizer"]
