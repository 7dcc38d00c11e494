import json

import pytest

from moco.errors import RunError
from moco.training.run_folder import RunFolder


def test_an_empty_or_missing_folder_may_be_taken(tmp_path):
    RunFolder(tmp_path).check(resume=False)
    RunFolder(tmp_path / "new").check(resume=False)
    assert not (tmp_path / "new").exists(), "checking changes nothing"


def test_a_used_folder_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(RunError, match="other files"):
        RunFolder(tmp_path).check(resume=False)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(RunError, match="--resume"):
        RunFolder(tmp_path).check(resume=False)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        RunFolder(tmp_path / "file").check(resume=False)


def test_resuming_needs_a_run(tmp_path):
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder(tmp_path).check(resume=True)


def test_one_process_at_a_time(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.take(resume=False)
    with pytest.raises(RunError, match="in use"):
        second.take(resume=False)
    first.close()
    second.take(resume=False)
    second.close()


def test_metrics_after_the_checkpoint_are_dropped_with_a_line_cut_short(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4')
    RunFolder(tmp_path).trim_metrics(20)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [10, 20]


def test_a_run_that_another_has_ended_meanwhile_is_not_overwritten(tmp_path):
    late = RunFolder(tmp_path / "run")
    late.check(resume=False)
    first = RunFolder(tmp_path / "run")
    first.take(resume=False)
    first.write_text("config.yaml", "data: null")
    first.close()
    with pytest.raises(RunError, match="holds a run already"):
        late.take(resume=False)
    first.take(resume=True)
    first.close()


def test_what_a_run_leaves_that_never_began_is_in_nobodys_way(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.take(resume=False)
    (tmp_path / "run" / ".config.partial.yaml").write_text("data:")  # killed here
    RunFolder(tmp_path / "run").check(resume=False)
    (tmp_path / "run" / "checkpoints" / "last.pt").touch()
    with pytest.raises(RunError, match="other files"):
        RunFolder(tmp_path / "run").check(resume=False)
    folder.close()


def test_errors_of_the_disk_are_said_in_a_line_and_those_of_a_callback_stay(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match="No space left on device; there is no checkpoint yet"), folder.disk_errors():
        raise OSError(28, "No space left on device")
    with pytest.raises(RunError, match=r"cannot write .*run/metrics.jsonl"), folder.disk_errors():
        (tmp_path / "run" / "metrics.jsonl").open("w")
    with pytest.raises(ConnectionRefusedError), folder.disk_errors():
        raise ConnectionRefusedError(111, "Connection refused")
    with pytest.raises(FileNotFoundError), folder.disk_errors():
        (tmp_path / "elsewhere").open()
