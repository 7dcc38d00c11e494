"""What the loop does around its steps: moments of callbacks, agreement of ranks, a checkpoint of an earlier version."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import StopAt

import moco
from moco.contrast import collective
from moco.errors import RunError


class Record(moco.Callback):
    """Every moment that comes, in order."""

    def __init__(self):
        self.moments, self.agreed, self.losses = [], [], []

    def on_train_start(self, training):
        self.moments.append(("start", training.step))
        self.agreed.append(collective._agreed)

    def on_step_end(self, training):
        self.moments.append(("step", training.step))
        self.agreed.append(collective._agreed)
        self.losses.append(float(training.loss))

    def on_log(self, training, values):
        self.moments.append(("log", sorted(values)[0]))

    def on_checkpoint(self, training, path):
        assert path.is_file()
        self.moments.append(("checkpoint", training.step))

    def on_train_end(self, training):
        self.moments.append(("end", training.step))


def test_callbacks_are_called_at_their_moments_in_order(photos, tmp_path, tiny):
    record = Record()
    moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[record], **{**tiny, "steps": 4})
    steps = [("step", n) for n in (1, 2, 3, 4)]
    logs = ("log", "data_wait"), ("log", "knn_top1")
    assert record.moments == [("start", 0), *steps[:2], *logs, *steps[2:], *logs, ("checkpoint", 4), ("end", 4)]
    assert all(loss > 0 for loss in record.losses)


def test_ranks_compare_shapes_in_the_first_step_alone(photos, tmp_path, tiny):
    record = Record()
    options = {**tiny, "steps": 3, "knn_evaluations": 0}
    moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[record], **options)
    assert record.agreed == [False, True, True, True], "not before the first step, but after it"
    assert not collective._agreed


def test_a_checkpoint_with_another_optimiser_state_is_refused(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(3)], **tiny)
    file = run.path / "checkpoints" / "last.pt"
    state = torch.load(file, weights_only=True)
    for kept in state["optimizer"]["state"].values():
        kept["momentum_buffer"] = kept["momentum_buffer"].flatten()
    torch.save(state, file)
    with pytest.raises(RunError, match="earlier version"):
        moco.pretrain(out=run.path, resume=True, quiet=True)
