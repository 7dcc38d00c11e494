"""What an evaluation says while it goes on."""

from __future__ import annotations

from tests.evaluation.conftest import evaluate


def test_raw_pixels_stand_beside_the_fast_probe_and_figures_are_said_as_they_come(run, coloured, capsys):
    report = evaluate(run, coloured, protocol="linear", baselines="random", quiet=False)
    said = capsys.readouterr().err
    assert report.value("linear_top1", "pixels") > 0.8, "the classes are colours"
    assert "pixels" in {each.baseline for each in report.differences}
    lines = [f"run, features: linear_top1 {report.value('linear_top1'):.1%}"]
    lines += [f"raw pixels, pixels: linear_top1 {report.value('linear_top1', 'pixels'):.1%}"]
    assert all(line in said for line in lines)
    assert said.index(lines[0]) < said.index("random weights, features: linear_top1") < said.index(lines[1])
    evaluate(run, coloured, protocol="linear", probe="paper", probe_epochs=1, baselines="random")
    assert "linear_top1" not in capsys.readouterr().err
