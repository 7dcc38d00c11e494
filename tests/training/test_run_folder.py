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
    first.take()
    with pytest.raises(RunError, match="in use"):
        second.take()
    first.close()
    second.take()
    second.close()


def test_metrics_after_the_checkpoint_are_dropped_with_a_line_cut_short(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4')
    RunFolder(tmp_path).trim_metrics(20)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [10, 20]
