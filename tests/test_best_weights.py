"""The best weights of a run beside the last ones, and a run that ends where it gets no better."""

from __future__ import annotations

import json

import pytest
import torch

import moco
from moco.errors import ConfigError
from tests.test_starting_weights import OPTIONS, tensors


def test_the_best_weights_are_kept_beside_the_last_and_patience_ends_a_run(photos, tmp_path, monkeypatch):
    figures = iter([0.3, 0.5, 0.4, 0.4])
    monkeypatch.setattr("moco.evaluation.monitor.Monitor.curve", lambda *_: iter([("knn_top1", next(figures))]))
    kept = {}

    class Look:
        def on_log(self, run, values):
            if "knn_top1" in values:
                kept[run.step] = run.model.encoder_q.backbone.conv1.weight.clone()

    options = {**OPTIONS, "steps": 20, "knn_evaluations": 10, "patience": 2}
    run = moco.pretrain(photos, out=tmp_path / "run", backbone="resnet_tiny", callbacks=[Look()], **options)
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["steps"], summary["finished"]) == (8, True)
    assert (summary["knn_best"], summary["knn_best_step"]) == (0.5, 4)
    assert torch.equal(tensors(run, "best_backbone.safetensors")["conv1.weight"], kept[4])
    assert torch.equal(tensors(run)["conv1.weight"], kept[8])
    assert moco.load(run.path / "best_backbone.safetensors").feature_dim == run.backbone.feature_dim
    assert moco.pretrain(out=run.path, resume=True, quiet=True).summary["steps"] == 8, "it has ended"


def test_patience_without_labels_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="patience=2 without labels"):
        moco.pretrain(
            torch.zeros(20, 16, 16, 3, dtype=torch.uint8).numpy(),
            out=tmp_path / "run",
            backbone="resnet_tiny",
            **{**OPTIONS, "patience": 2},
        )
