"""The code of docs/own-loop.md, as the tests run it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "own-loop.md").read_text(encoding="utf-8")
MARKED = re.compile(r"<!-- (setup|run: .*?) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {mark.removeprefix("run: "): code for mark, code in MARKED.findall(TEXT) if mark != "setup"}


def start() -> dict[str, Any]:
    """Names of the page's setup: a model, its optimiser and its batches, the same each time."""
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for mark, code in MARKED.findall(TEXT):
            if mark == "setup":
                exec(compile(code, "own-loop.md", "exec"), names)
    return names


def learnt(example: str, code: str | None = None) -> dict[str, Tensor]:
    """State of the model after an example of the page, or after other code in its place."""
    names = start()
    exec(compile(EXAMPLES[example] if code is None else code, "own-loop.md", "exec"), names)
    return {name: value.clone() for name, value in names["model"].state_dict().items()}
