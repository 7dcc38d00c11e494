"""docs/other-domains.md says what the code does: its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "docs" / "other-domains.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- run: ([\w ]+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str) -> None:
    names: dict[str, object] = {}
    exec(EXAMPLES[name], names)
    assert torch.as_tensor(names["loss"]).detach() > 0


def test_the_page_has_its_examples() -> None:
    assert {"curl", "general", "towers"} <= set(EXAMPLES)
