"""The stress suite notices what it is there to notice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the suite reads /proc")
if sys.platform.startswith("linux"):
    from stress.case import one_line_error
    from stress.compare import difference, differing
    from stress.failure import Failure
    from stress.leftovers import Leftovers
    from stress.process import Process
    from stress.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[1]


def test_one_bit_is_a_difference_and_a_time_is_none(tmp_path):
    weights = torch.arange(6.0)
    for name, tensor in (("a", weights), ("same", weights.clone()), ("bit", weights.nextafter(weights + 1))):
        (tmp_path / name).mkdir()
        save_file({"weight": tensor}, tmp_path / name / "backbone.safetensors")
        (tmp_path / name / "summary.json").write_text(f'{{"steps": 6, "seconds": {len(name)}}}')
    assert difference(tmp_path / "a", tmp_path / "same") is None
    assert "weight: other numbers" in str(difference(tmp_path / "a", tmp_path / "bit"))
    (tmp_path / "same" / ".partial").write_text("left")
    assert "also holds .partial" in str(difference(tmp_path / "a", tmp_path / "same"))
    (tmp_path / "a" / "skipped.jsonl").write_text("")
    assert "lacks skipped.jsonl" in str(difference(tmp_path / "a", tmp_path / "same"))


def test_values_are_compared_to_the_bit():
    one = {"last": {"loss": 0.1, "nan": float("nan")}, "list": [1, np.zeros(2)]}
    assert not list(differing(one, {"last": {"loss": 0.1, "nan": float("nan")}, "list": [1, np.zeros(2)]}))
    assert list(differing(one, {**one, "last": {"loss": 0.1 + 1e-17 + 2e-17, "nan": 0.0}}))
    assert list(differing(one, {**one, "list": [1, np.zeros(2, dtype=np.float32)]}))
    assert list(differing(torch.tensor([0.0]), torch.tensor([-0.0])))


COUNTED = """
import pathlib, sys
from stress.file_events import Moment, watch_files
folder = pathlib.Path(sys.argv[1])
watch_files(folder, Moment(3))
pathlib.Path(sys.argv[2]).write_text("elsewhere: not counted")
for number in range(5):
    (folder / str(number)).write_text("")
"""


def test_a_process_ends_just_before_a_change_of_a_file(tmp_path):
    folder = tmp_path / "watched"
    folder.mkdir()
    command = [sys.executable, "-c", COUNTED, str(folder), str(tmp_path / "other")]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -9
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]


def test_leftovers_are_found(tmp_path):
    left, name = Leftovers(tmp_path), f"moco_stress_test_{os.getpid()}"
    shared = Path("/dev/shm", name)
    (tmp_path / "pymp-x").mkdir()
    with shared.open("w"):
        assert left.found() == ["tmp/pymp-x"]
    try:
        assert left.found() == ["tmp/pymp-x", str(shared)]
    finally:
        shared.unlink()


@pytest.mark.parametrize(
    ("code", "said", "refused"),
    [
        (2, "moco 0.1: looking\nmoco: error: no such file", False),
        (1, "moco: error: cannot write", False),
        (0, "moco: error: cannot write", True),
        (-11, "moco: error: cannot write", True),
        (2, "Traceback (most recent call last):\nmoco: error: no such file", True),
        (2, "moco: error: one\nmoco: error: two", True),
        (2, "moco: error: a message\nof two lines", True),
    ],
)
def test_an_error_is_one_line(code, said, refused):
    process = Process(0, (), -1, -1, 0.0, said=said, code=code)
    if refused:
        with pytest.raises(Failure):
            one_line_error(process)
    else:
        one_line_error(process)


def test_every_command_that_writes_is_attacked():
    commands = {"pretrain", "pack", "embed", "evaluate", "ablate", "import", "export"}
    assert {scenario.kind for scenario in SCENARIOS} == commands
    assert {scenario.ranks for scenario in SCENARIOS} == {1, 2}
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


KILLED = """
import sys
from pathlib import Path
from stress import case, suite
from stress.failure import Failure
from stress.file_events import Moment
from stress.scenarios import OFTEN, SCENARIOS
suite.load()
place = case.Workplace(Path(sys.argv[1]))
tested = next(scenario for scenario in SCENARIOS if scenario.name == "pretrain v2 in this process")
broken = {"torch.optim.SGD.load_state_dict": lambda self, state: None}
for number, settings in enumerate(({}, broken)):
    one = case.Case(place, 0, "kill", number)
    one.settings = {**OFTEN, **settings}
    moment = Moment(place.reference(tested).changes * 2 // 3)
    assert case.wait(one.start(tested, moment=moment), 90) == -9
    try:
        one.finish(tested)
        print("equal")
    except Failure as failure:
        print("noticed", failure)
    one.close(keep=False)
"""


@pytest.mark.slow
def test_a_resume_that_forgets_the_momentum_is_noticed(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "w")]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    first, second = result.stdout.splitlines()
    assert first == "equal", result.stderr
    assert second.startswith("noticed not as if uninterrupted: run/")
