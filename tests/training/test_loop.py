"""What the loop does around its steps: moments of callbacks, agreement of ranks, a checkpoint of an earlier version."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.conftest import StopAt
from torch import nn

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


def poisoned(at):
    """A network whose features are no numbers after so many forwards in training."""

    class Poisoned(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.calls = nn.Linear(3, 6), 0

        def forward(self, x):
            self.calls += self.training
            features = self.body(x.mean(dim=(2, 3)))
            return features * math.nan if self.calls > at else features

    return Poisoned()


FINITE = [
    {},
    {"symmetric": True},
    {"optimizer": "adamw"},
    {"optimizer": "muon"},
    {"optimizer": "lars", "sgd_momentum": 0.9},
    {"mechanism": "memory-bank"},
    {"recipe": "v3", "zero_init_residual": False, "hidden_dim": 8},
]


@pytest.mark.parametrize("options", FINITE, ids=lambda options: next(iter(options.values()), "v2"))
@pytest.mark.parametrize(("at", "minutes"), [(0, 60.0), (3, 60.0), (3, 0.0)])
def test_what_is_no_number_reaches_neither_queue_nor_encoders_nor_a_checkpoint(
    photos, tmp_path, tiny, options, at, minutes
):
    """Not even where the loss is looked at some steps later, or a checkpoint is due at each step."""
    options = {**tiny, "checkpoint_minutes": minutes, "log_every": 6, "knn_evaluations": 0, **options}
    options["backbone"] = poisoned(at)
    if options["recipe"] == "v3":
        del options["dictionary_size"]

    class Keep(moco.Callback):
        def on_step_end(self, training):
            self.model = training.model

    keep, out = Keep(), tmp_path / "run"
    with pytest.raises(RunError, match="the loss is nan"):
        moco.pretrain(photos, out=out, quiet=True, callbacks=[keep], **options)
    state = {name: value for name, value in keep.model.state_dict().items() if "running" not in name}
    assert all(value.isfinite().all() for value in state.values())
    file = out / "checkpoints" / "last.pt"
    assert file.is_file() is (minutes == 0)
    if minutes == 0:
        saved = torch.load(file, weights_only=True)
        assert saved["progression"]["step"] > 0
        assert saved["progression"]["loss_sum"].isfinite()
        assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars", "muon"])
def test_a_gradient_that_is_no_number_ends_the_run_and_moves_nothing(photos, tmp_path, tiny, optimizer):
    """The loss itself is finite."""
    seen = {}

    class Poison(moco.Callback):
        def on_step_end(self, training):
            seen[training.step] = copy.deepcopy(training.model.state_dict())
            if training.step == 2:
                next(training.model.query_side.parameters()).register_hook(lambda gradient: gradient * math.inf)

    options = {**tiny, "optimizer": optimizer, "log_every": 3, "sgd_momentum": 0.0 if optimizer != "adamw" else 0.9}
    with pytest.raises(RunError, match="the loss is nan at step 3"):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[Poison()], weight_decay=0.0, **options)
    for name, value in seen[3].items():
        assert value.isfinite().all(), name
        if name.startswith("encoder_q") and "running" not in name and "num_batches" not in name:
            assert torch.equal(value, seen[2][name]), name


def test_a_checkpoint_with_another_optimiser_state_is_refused(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(3)], **tiny)
    file = run.path / "checkpoints" / "last.pt"
    state = torch.load(file, weights_only=True)
    for kept in state["optimizer"]["state"].values():
        kept["momentum_buffer"] = kept["momentum_buffer"].flatten()
    torch.save(state, file)
    with pytest.raises(RunError, match="earlier version"):
        moco.pretrain(out=run.path, resume=True, quiet=True)
