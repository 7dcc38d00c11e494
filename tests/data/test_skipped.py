"""Damaged files are counted once and listed."""

import json

from moco.data.skipped import SkippedFiles


def test_skipped_files_count_once_and_are_listed(tmp_path):
    skipped = SkippedFiles()
    for number in range(200):
        skipped.add(f"{number % 50}.jpg", "empty file")
    skipped.add("0.jpg", "another reason")
    skipped.add("odd\udce9.jpg", "truncated")
    assert skipped.count == 51
    skipped.write(tmp_path / "skipped.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert lines == [{"path": path, "reason": reason} for path, reason in skipped.items()]
    assert lines[0] == {"path": "0.jpg", "reason": "empty file"}
    assert [path.name for path in tmp_path.iterdir()] == ["skipped.jsonl"]


def test_what_was_noted_is_read_back(tmp_path):
    first = SkippedFiles()
    first.add("b.jpg", "cut short")
    first.add("a.jpg", "no image")
    first.write(tmp_path / "skipped.jsonl")
    assert SkippedFiles.read(tmp_path / "skipped.jsonl").items() == first.items()
    assert SkippedFiles.read(tmp_path / "absent.jsonl").items() == []
