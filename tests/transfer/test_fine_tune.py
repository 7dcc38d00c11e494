"""The loop: seeds, resuming, interruption, tests on the way."""

import os
import signal

import pytest
import torch

from moco.encoder import build_backbone
from moco.errors import RunError
from moco.transfer.fine_tuning.loop import FineTuning
from moco.transfer.fine_tuning.options import Options
from moco.transfer.fine_tuning.schedule import Schedule
from tests.transfer.drawn import make_task

QUIET = Options(precise=2, quiet=True)


def backbone(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone("resnet_tiny", image_size=32).module


def run_of(task, *, iterations=4, seed=0, options=QUIET, checkpoint=None, start=0, rate=0.01, label="run"):
    schedule = Schedule(iterations, 0, (3,), rate, batch_size=2)
    return FineTuning(
        task, backbone(start), schedule=schedule, seed=seed, options=options, checkpoint=checkpoint, label=label
    )


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make_task(tmp_path_factory.mktemp("drawn"))


def test_resume_is_bitwise_identical(task, tmp_path, monkeypatch):
    whole = run_of(task)
    whole.run()
    file = tmp_path / "last.pt"
    part = run_of(task, checkpoint=file)
    step = FineTuning._step

    def stopped(self, batch):
        step(self, batch)
        if self.progress.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            part.run()
    assert part.progress.iteration == 2
    resumed = run_of(task, checkpoint=file)
    assert resumed.progress.iteration == 2
    here = resumed.options.stated()
    with monkeypatch.context() as patch:
        patch.setattr(Options, "stated", lambda self: here | {"ranks": 2})
        resumed.run()
    assert resumed.progress.how == [(0, here), (2, here | {"ranks": 2})]
    assert run_of(task, checkpoint=file).run().how == resumed.progress.how, "nothing was trained in this call"
    assert same(resumed.model, whole.model)
    assert resumed.progress.scores == whole.progress.scores
    assert resumed.progress.curve == whole.progress.curve


def test_a_finished_run_is_not_repeated(task, tmp_path, monkeypatch):
    file = tmp_path / "last.pt"
    done = run_of(task, checkpoint=file).run()
    monkeypatch.setattr(FineTuning, "_step", None)
    monkeypatch.setattr(type(task), "score", None)
    assert run_of(task, checkpoint=file).run() == done


def test_a_stop_in_the_last_test_loses_no_training(task, tmp_path, monkeypatch):
    def stopped(self, model):
        raise KeyboardInterrupt

    file = tmp_path / "last.pt"
    with monkeypatch.context() as patch:
        patch.setattr(type(task), "score", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_of(task, checkpoint=file).run()
    monkeypatch.setattr(FineTuning, "_step", None)
    assert [step for step, _ in run_of(task, checkpoint=file).run().scores] == [4]


def test_a_checkpoint_has_the_optimizers_state_while_there_are_steps_to_do(task, tmp_path, monkeypatch):
    file, kept = tmp_path / "last.pt", []
    step = FineTuning._step

    def saved(self, batch):
        step(self, batch)
        self._save()
        kept.append("optimizer" in torch.load(file, weights_only=True))

    monkeypatch.setattr(FineTuning, "_step", saved)
    run = run_of(task, checkpoint=file)
    run.run()
    assert kept == [True, True, True, False]
    assert same(run_of(task, checkpoint=file).model, run.model)


def test_initialisations_of_one_seed_differ_in_the_backbone_alone(task):
    first, second = (run_of(task, start=start).model.state_dict() for start in (0, 1))
    different = {name for name in first if not torch.equal(first[name], second[name])}
    assert different
    assert all(name.startswith("backbone.body") for name in different)
    other = run_of(task, seed=1).model.state_dict()
    assert not torch.equal(
        other["roi_heads.box_predictor.cls_score.weight"], first["roi_heads.box_predictor.cls_score.weight"]
    )


def test_the_backbone_that_was_given_stays_as_it_was(task):
    given = backbone()
    FineTuning(task, given, schedule=Schedule(2, 0, (), 0.1), seed=0, options=QUIET).run()
    assert same(given, backbone())


def test_tests_on_the_way_do_not_change_the_run(task):
    plain, looked = run_of(task), run_of(task, options=Options(precise=2, quiet=True, score_every=1))
    plain.run()
    looked.run()
    assert same(plain.model, looked.model)
    assert [step for step, _ in looked.progress.scores] == [1, 2, 3, 4]
    assert looked.progress.scores[-1] == plain.progress.scores[-1]


def test_the_global_random_state_is_left_alone(task):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run_of(task).run()
    assert torch.equal(torch.get_rng_state(), before)


def test_statistics_are_measured_anew_before_the_test(task):
    run = run_of(task)
    run.run()
    name = "backbone.body.bn1.running_mean"
    assert not torch.equal(run.tested().state_dict()[name], run.model.state_dict()[name])
    assert same(run.tested(), run.tested())


def test_a_loss_that_is_no_number_ends_the_run(task):
    with pytest.raises(RunError, match="lower the learning rate"):
        run_of(task, iterations=30, rate=1e6).run()


@pytest.mark.parametrize("change", [{"seed": 1}, {"iterations": 9}, {"label": "other"}, {"start": 1}])
def test_a_checkpoint_of_another_run_is_refused(task, tmp_path, change):
    file = tmp_path / "last.pt"
    run_of(task, checkpoint=file).run()
    with pytest.raises(RunError, match="is of a run with another"):
        run_of(task, checkpoint=file, **change)


def test_a_damaged_checkpoint_is_refused_in_one_line(task, tmp_path):
    file = tmp_path / "last.pt"
    file.write_bytes(b"nothing")
    with pytest.raises(RunError, match="remove it to begin anew"):
        run_of(task, checkpoint=file)


def test_training_learns(task):
    curve = run_of(task, iterations=30, rate=0.02).run().curve
    losses = [loss for _, loss in curve]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
