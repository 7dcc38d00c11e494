"""Ctrl-C in a long step, before the first step, and while a run is evaluated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from tests.conftest import StopAt
from torch import nn

import moco
from moco.training import alive, stop
from moco.training.stop import StopRequest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to whole consoles")

BACKBONE = '''
import os, time, torch
from torch import nn

class Sleeps(nn.Module):
    """As deaf to signals as a long operation of PyTorch, once a file is there."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 8)

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and os.path.exists("asleep"):
            open("sleeping", "w").close()
            SLEEP
        return self.body(x.mean(dim=(2, 3)))

def make():
    return Sleeps()
'''
SECONDS = 10.0  # from the signal to the end: 1.7 on a quiet machine, minutes if the step were waited for
# Python never gets the word inside the first: a matrix product of minutes. It does in the second, between two of many.
SLEEPS = {
    "in C": "torch.ones(30_000, 9_000) @ torch.ones(9_000, 90_000)",
    "in Python": "[time.sleep(0.01) for _ in range(9999)]",
}


def ctrl_c(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def command(*options: str) -> list[str]:
    given = (
        "--recipe v2 --backbone sleeps:make --image-size 16 --batch-size 4 --dictionary-size 8 --threads 1 --workers 0"
    )
    given += " --knn-evaluations 0 --allow-factory --log-every 1 --checkpoint-minutes 0 --out run"
    return [sys.executable, "-m", "moco", "pretrain", "photos", *given.split(), *options]


@pytest.mark.parametrize("sleep", SLEEPS)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
def test_ctrl_c_ends_a_long_step_within_two_seconds(photos, tmp_path, sleep, first):
    (tmp_path / "sleeps.py").write_text(BACKBONE.replace("SLEEP\n", SLEEPS[sleep] + "\n"))
    saved, environment = tmp_path / "run" / "checkpoints" / "last.pt", {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    options = ["--steps", "1000000", "--quiet"]
    with subprocess.Popen(
        command(*options), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        if not first:
            wait(saved.is_file, process)
        (tmp_path / "asleep").touch()
        wait((tmp_path / "sleeping").is_file, process)
        process.send_signal(signal.SIGINT)
        signalled = time.monotonic()
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - signalled
    assert process.returncode == 130, said
    assert said.endswith("moco: stopped\n")
    assert "Traceback" not in said
    assert seconds < SECONDS
    if first:
        assert not (tmp_path / "run").exists()
        return
    state = torch.load(saved, weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())
    (tmp_path / "asleep").unlink()
    step = state["progression"]["step"]
    again = [sys.executable, "-m", "moco", "pretrain", "--out", "run", "--resume", "--quiet", "--allow-factory"]
    with subprocess.Popen(again, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        before = saved.stat().st_mtime_ns
        wait(lambda: saved.stat().st_mtime_ns != before, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert torch.load(saved, weights_only=True)["progression"]["step"] > step


def wait(condition, process):
    latest = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < latest
        time.sleep(0.01)


class Signals(moco.Callback):
    """Ctrl-C at a moment of the run."""

    def __init__(self, moment: str) -> None:
        setattr(self, moment, lambda *_: ctrl_c())


@pytest.mark.parametrize("existing", [False, True])
def test_a_run_stopped_before_its_first_step_leaves_nothing_in_the_way(photos, tmp_path, tiny, existing):
    out = tmp_path / "run"
    if existing:
        out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        moco.pretrain(photos, out=out, quiet=True, callbacks=[Signals("on_train_start")], **tiny)
    assert out.exists() is existing
    assert not existing or not list(out.iterdir())
    assert moco.pretrain(photos, out=out, quiet=True, **tiny).finished


def test_an_error_before_the_first_step_leaves_nothing_either(photos, tmp_path, tiny):
    with pytest.raises(moco.MocoError, match="num_neighbors=99"):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, **{**tiny, "num_neighbors": 99})
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_is_never_cleared(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(2)], **tiny)
    (run.path / "checkpoints" / "last.pt").unlink()
    with pytest.raises(KeyboardInterrupt):
        moco.pretrain(out=run.path, resume=True, quiet=True, callbacks=[Signals("on_train_start")])
    assert (run.path / "config.yaml").is_file()


def test_ctrl_c_in_an_evaluation_saves_the_steps(photos, tmp_path, tiny):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.slow = nn.Linear(3, 6), False

        def forward(self, x):
            while self.slow and not self.training:
                time.sleep(0.01)
            return self.body(x.mean(dim=(2, 3)))

    module = Network()

    class SlowFromThirdStep(moco.Callback):
        def on_step_end(self, training):
            if training.step == 3:
                module.slow = True
                threading.Timer(0.3, ctrl_c).start()

    options = {**tiny, "backbone": module, "steps": 6, "knn_evaluations": 2}
    with pytest.raises(KeyboardInterrupt):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[SlowFromThirdStep()], **options)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert saved["progression"]["step"] == 3
    module.slow = False
    assert moco.pretrain(out=tmp_path / "run", resume=True, quiet=True, backbone=Network()).finished


def interrupted(seconds: float, signals: int = 1) -> None:
    with StopRequest():
        for _ in range(signals):
            ctrl_c()
        time.sleep(seconds)


def test_a_signal_that_is_met_at_the_boundary_is_not_given_up(monkeypatch):
    monkeypatch.setattr(stop, "PATIENCE", 0.05)
    with StopRequest() as request:
        ctrl_c()
        assert request.came
        request.boundary()
        time.sleep(0.2)  # saving may take its time
    with pytest.raises(KeyboardInterrupt):
        interrupted(5.0)


@pytest.mark.parametrize("options", [{"watched": False}, {}], ids=["several ranks", "SIGTERM"])
def test_not_every_signal_gives_up_a_step(monkeypatch, options):
    monkeypatch.setattr(stop, "PATIENCE", 0.05)
    with StopRequest(**options) as request:
        ctrl_c(signal.SIGINT if options else signal.SIGTERM)
        time.sleep(0.3)
    assert request.came


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_terminal_that_closes_ends_a_run_as_a_request_to_end_does(photos, tmp_path, tiny, name, request):
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)  # the tests may run under nohup
    request.addfinalizer(lambda: signal.signal(getattr(signal, name), before))

    class Closes(moco.Callback):
        def on_step_end(self, training):
            if training.step == 3:
                ctrl_c(getattr(signal, name))

    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[Closes()], **tiny)
    assert (run.finished, run.summary["steps"]) == (False, 3)
    assert run.path.joinpath("checkpoints", "last.pt").is_file()


def test_under_nohup_a_closing_terminal_is_not_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            ctrl_c(signal.SIGHUP)
        assert not request.came
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_a_step_at_once_and_handlers_are_as_before():
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before[1])
    with pytest.raises(KeyboardInterrupt):
        interrupted(0.0, signals=2)
    assert signal.getsignal(signal.SIGINT) == before[0]
    assert signal.set_wakeup_fd(-1) == before[1]


def test_what_takes_long_says_so_every_few_seconds(capsys, monkeypatch):
    monkeypatch.setattr(alive, "EVERY", 0.05)
    with alive.doing("thinking", show=True):
        time.sleep(0.4)
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 3
    assert set(said) == {"thinking: 0 s"}
    with alive.doing("thinking", show=False):
        time.sleep(0.2)
    assert not capsys.readouterr().err
    assert alive.EVERY < 10


def test_the_bar_moves_in_a_long_step(capsys, monkeypatch):
    from moco.training.metrics import Progress

    monkeypatch.setattr(alive, "EVERY", 0.05)
    with Progress(8, 0, show=True):
        time.sleep(0.4)
    assert capsys.readouterr().err.count("/8.00") >= 4
