"""Processes side by side, with small programs in the place of runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from moco.ablation import processes
from moco.ablation.processes import Pool, Task, ask, last_line, start
from moco.errors import RunError

STOPPABLE = """
import time, pathlib
try:
    {ready}.touch()
    time.sleep(60)
except KeyboardInterrupt:
    {done}.touch()
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(processes, "PAUSE", 0.02)


def task(name, text, folder):
    return Task(name, ("-S", "-c", text), folder / f"{name}.log", 1)


def pool(jobs=1, deadline=None, watch=lambda active: None):
    ends = {}
    return Pool(jobs=jobs, deadline=deadline, ended=ends.__setitem__, watch=watch), ends


def test_all_tasks_are_done_and_a_failure_does_not_stop_the_others(tmp_path):
    made, ends = pool(jobs=2)
    made.run([task(str(code), f"import sys; sys.exit({code})", tmp_path) for code in (3, 0, 1, 2)])
    assert ends == {"3": 3, "0": 0, "1": 1, "2": 2}
    assert not made.interrupted
    assert not made.out_of_time


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_than_jobs_are_at_work(tmp_path, jobs):
    seen = []
    made, ends = pool(jobs=jobs, watch=lambda active: seen.append(len(active)))
    made.run([task(str(n), "import time; time.sleep(0.2)", tmp_path) for n in range(4)])
    assert len(ends) == 4
    assert max(seen) == jobs


def stoppable(name, folder):
    ready, done = (f"pathlib.Path({str(folder / f'{name}.{word}')!r})" for word in ("ready", "done"))
    return task(name, STOPPABLE.format(ready=ready, done=done), folder)


def test_at_the_deadline_tasks_are_asked_to_stop_and_waited_for(tmp_path):
    made, ends = pool(jobs=2, deadline=time.monotonic() + 1.0)
    made.run([stoppable(name, tmp_path) for name in "abc"])
    assert made.out_of_time
    assert not made.interrupted
    assert {path.stem for path in tmp_path.glob("*.done")} == {"a", "b"}
    assert not (tmp_path / "c.ready").exists(), "no task is started after the deadline"
    assert set(ends) <= {"a", "b"}


def test_nothing_is_started_without_time(tmp_path):
    made, ends = pool(deadline=time.monotonic() - 1)
    made.run([stoppable("a", tmp_path)])
    assert made.out_of_time
    assert not ends
    assert not (tmp_path / "a.ready").exists()


def test_ctrl_c_stops_all_of_them_cleanly(tmp_path):
    made, _ = pool(jobs=2)

    def interrupt():
        while len(list(tmp_path.glob("*.ready"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    made.run([stoppable(name, tmp_path) for name in "abc"])
    thread.join()
    assert made.interrupted
    assert {path.stem for path in tmp_path.glob("*.done")} == {"a", "b"}
    assert not (tmp_path / "c.ready").exists()


def test_a_task_sees_its_parent_go(tmp_path):
    text = "import os\nwhile os.read(0, 10):\n    pass\nprint('gone', flush=True)"
    parent = (
        "import sys, time, pathlib; from moco.ablation.processes import start; "
        f"start(['-S', '-c', {text!r}], pathlib.Path({str(tmp_path / 'log')!r}), 1); "
        "print('started', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=_environment())
    assert process.stdout.readline().strip() == b"started"
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 30
    while "gone" not in (tmp_path / "log").read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert "gone" in (tmp_path / "log").read_text()


def test_a_task_gets_its_threads_and_this_very_moco(tmp_path):
    log = tmp_path / "log"
    text = "import os, moco; print(os.environ['OMP_NUM_THREADS'], moco.__file__)"
    process = start(["-c", text], log, 3)
    process.wait()
    process.stdin.close()
    import moco

    assert log.read_text().split() == ["3", moco.__file__]


def test_a_measurement_that_fails_says_why():
    with pytest.raises(RunError, match="the measurement before the start failed: .*No module named"):
        ask("moco.nowhere", {}, copies=1, threads=1)


def test_the_last_line_is_the_reason_without_the_name_of_our_exception(tmp_path):
    (tmp_path / "log").write_text("Traceback ...\nmoco.errors.ConfigError: batch_size=2: too few\n\n")
    assert last_line(tmp_path / "log") == "batch_size=2: too few"
    (tmp_path / "log").write_text("")
    assert last_line(tmp_path / "log") == "it said nothing"


def _environment():
    source = str(processes.Path(processes.__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": source}
