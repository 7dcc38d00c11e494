"""docs/evaluate.md: its code runs, its commands are understood, and its numbers of the protocols are the code's."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import moco
from moco.cli.functions import COMMANDS, make_parser
from moco.cli.parser import with_underscores
from moco.evaluation import finetune, linear, logistic
from moco.evaluation.settings import Settings
from tests.test_docs import blocks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evaluate.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINES = [line.strip() for block in blocks(TEXT, "sh") for line in block.replace("\\\n", " ").splitlines()]


def test_the_python_on_the_page_runs(photos, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(photos.parent)
    shutil.copytree(photos, photos.parent / "both" / "train")
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        path.write_bytes(path.read_bytes() + bytes([number]))  # not the train files
    photos.rename(photos.parent / "both" / "val")
    (photos.parent / "both").rename(photos)
    options = {
        "recipe": "v2",
        "backbone": "resnet_tiny",
        "image_size": 16,
        "batch_size": 4,
        "dictionary_size": 8,
        "steps": 2,
    }
    moco.pretrain("photos/train", out="runs/photos", quiet=True, threads=1, knn_evaluations=0, **options)
    whole = moco.evaluate

    def briefly(*words, **options):
        return whole(*words, **options, quiet=True)

    monkeypatch.setitem(vars(moco), "evaluate", briefly)
    names: dict[str, object] = {}
    for part in blocks(TEXT, "python"):
        exec(compile(part, PAGE.name, "exec"), names)
    assert names["plain"]["data"]["test_images"] == 24


@pytest.mark.parametrize("command", [line for line in LINES if line.startswith("moco evaluate")])
def test_every_command_on_the_page_is_understood(command):
    arguments = shlex.split(command.partition(" >")[0])[2:]
    chosen = make_parser(COMMANDS["evaluate"]).parse_args(with_underscores(arguments), defaults=False).as_dict()
    assert chosen.pop("model")
    chosen.pop("json", None)
    Settings(**chosen)  # which refuses what would change nothing


def test_commands_are_found():
    assert sum(line.startswith("moco evaluate") for line in LINES) >= 5


def test_the_stated_numbers_are_the_codes():
    for number in (
        f"learning rate {Settings.learning_rates[0]:g}, momentum {linear.MOMENTUM}",
        f"batch {linear.BATCH_SIZE}, {Settings.probe_epochs} epochs",
        f"{len(logistic.PENALTIES)} penalties",
        f"learning rate {finetune.FINETUNE_RATE} ({finetune.SCRATCH_RATE} from scratch), {finetune.EPOCHS} epochs",
        f"{finetune.LEAST_STEPS} steps",
    ):
        assert number in re.sub(r"\s+", " ", TEXT), number
