"""The file that a run holds anyway, for any architecture; its target is `moco.load`."""

from __future__ import annotations

from pathlib import Path

from moco.encoder.backbone import GIVEN
from moco.export.backbone import header_of, write_tensors
from moco.export.load import load
from moco.export.proof import Reader
from moco.export.subject import Subject


def refusal(subject: Subject) -> str | None:
    """Why not: a module that no name stands for, which a reader could not build."""
    if subject.model.architecture.startswith(GIVEN):
        return f"{subject.name} is a module that nobody can build from a file"
    return None


def write(subject: Subject, path: Path) -> None:
    """Write one file with the tensors under their library's names; its header says what they are."""
    write_tensors(subject.model.backbone.state_dict(), path, metadata=header_of(subject.model.metadata()))


def read(path: Path) -> Reader:
    """Read it as `moco.load` does; whoever exports a function of the user's has allowed it to be called."""
    model = load(path, allow_factory=True)
    return Reader(model, model.preprocess)
