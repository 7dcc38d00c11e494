"""Fabric, as a run makes it."""

from __future__ import annotations

import logging

import moco
from moco.training.engine import LIGHTNING_LOGS


def test_a_quiet_run_in_half_precision_writes_nothing(photos, tmp_path, tiny, capfd, caplog):
    levels = [logging.getLogger(name).level for name in LIGHTNING_LOGS]
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, precision="bf16", **tiny)
    assert run.finished
    written = capfd.readouterr()
    assert (written.out, written.err, caplog.messages) == ("", "", [])
    assert [logging.getLogger(name).level for name in LIGHTNING_LOGS] == levels


def test_lightning_still_speaks_to_whoever_uses_it(photos, tmp_path, tiny, caplog):
    moco.pretrain(photos, out=tmp_path / "run", quiet=True, precision="bf16", **tiny)
    from lightning.fabric import Fabric

    with caplog.at_level(logging.INFO, logger=LIGHTNING_LOGS[0]):
        Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    assert any("bfloat16" in said for said in caplog.messages), caplog.messages
