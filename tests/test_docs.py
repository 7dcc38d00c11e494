"""The documents say what the code does: the algorithm's text, the names of files and keys, and every example."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import moco
from moco.cli import main
from moco.config import Config
from moco.contrast import algorithm
from moco.recipes import configure, default_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", ROOT / "docs" / "how-it-works.md", ROOT / "docs" / "guide.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What makes a run of the guide's a matter of a second; everything else stays as written there.
SMALL = {
    "steps": 2,
    "batch_size": 4,
    "dictionary_size": 8,
    "image_size": 72,
    "num_neighbors": 3,
    "held_out": 0.25,
    "knn_evaluations": 1,
    "log_every": 1,
    "threads": 1,
    "workers": 2,
}


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text) if name == language]


def body(source: str) -> str:
    """The statements and comments of the one function in this text, or the text itself if there is none."""
    source = textwrap.dedent(source)
    function = ast.parse(source).body[0] if source.startswith("def ") else None
    if not isinstance(function, ast.FunctionDef):
        return source.strip()
    first = function.body[bool(ast.get_docstring(function))]
    return textwrap.dedent("\n".join(source.splitlines()[first.lineno - 1 :])).strip()


def table(text: str, name: str) -> set[str]:
    """First column of the table under `<!-- keys: name -->`."""
    _, _, rest = text.partition(f"<!-- keys: {name} -->")
    rows = rest.strip().partition("\n\n")[0].splitlines()[2:]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_the_algorithm_is_shown_as_it_runs(document):
    for number, part in enumerate(document.read_text(encoding="utf-8").split("<!-- algorithm: ")):
        if number:
            name, _, rest = part.partition(" -->\n")
            shown = blocks(rest.lstrip(), "python")[0]
            assert rest.lstrip().startswith("```python")
            assert body(shown) == body(inspect.getsource(getattr(algorithm, name))), name
        elif document.name == "how-it-works.md":
            assert "<!-- algorithm: moco_step -->" in document.read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


def commands() -> list[str]:
    text = "\n".join(block for path in DOCS for block in blocks(path.read_text(encoding="utf-8"), "sh"))
    lines = [line.partition(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    return sorted({line[line.index("moco pretrain") :] for line in lines if re.search(r"(^|/)moco pretrain", line)})


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documents_is_understood(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"--config (\S+)", command):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(yaml.safe_dump({"backbone": "resnet18"}))
    with pytest.raises(SystemExit) as end:
        main([*shlex.split(command)[1:], "--print_config"])
    assert end.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["backbone"]


@pytest.fixture
def guided(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos/, where `moco.pretrain` checks the options that it is given and then makes a small run."""
    for number, path in enumerate(3 * sorted(photos.rglob("*.jpg"))):  # so many that a run is fitted to them
        path.with_name(f"{number}-{path.name}").write_bytes(path.read_bytes() + bytes([number]))
    Image.new("RGB", (90, 60), "teal").save(photos / "cats" / "one.jpg")
    monkeypatch.chdir(photos.parent)
    pretrain = moco.pretrain

    def small(data=None, *, out=None, recipe=None, **options):
        stated = {name: value for name, value in options.items() if name in Config.__dataclass_fields__}
        if not isinstance(stated.get("backbone", ""), str):
            del stated["backbone"]
        configure(recipe or default_recipe(data), stated)
        own_size = {"image_size": options["image_size"]} if "transform" in options else {}
        return pretrain(data, out=out, recipe=recipe, quiet=True, **{**options, **SMALL, **own_size})

    monkeypatch.setitem(vars(moco), "pretrain", small)
    return photos.parent


def test_the_guide_runs_from_top_to_bottom(guided):
    pytest.importorskip("timm")
    code = blocks((ROOT / "docs" / "guide.md").read_text(encoding="utf-8"), "python")
    assert len(code) >= 8
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        for part in code:
            exec(compile(part, "guide.md", "exec"), names)
    assert float(names["loss"]) < 3.1, "the encoder of the example learns: at learning rate 0 it stays at 3.5 to 4.1"
    check_names(guided / "runs" / "photos")


def check_names(run: Path) -> None:
    """The files and keys of a run are those that how-it-works.md explains."""
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert table(text, "summary.json") == json.loads((run / "summary.json").read_text()).keys()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert table(text, "metrics.jsonl") == set().union(*lines)
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert table(text, "last.pt") == state.keys()
    for path in run.rglob("*"):
        assert path.name.partition(".out.")[0] in text, path


def test_the_checkers_see_a_difference():
    assert body('def f(x: int) -> int:\n    """D."""\n    y = x  # c\n    return y\n') == body("y = x  # c\nreturn y\n")
    assert body("def f():\n    return 1") != body("return 2")
    assert table("<!-- keys: a -->\n| k | m |\n|-|-|\n| `x`, `y` | `z` |\n\n| `w` |", "a") == {"x", "y"}
    assert any("--resume" in command for command in commands())
