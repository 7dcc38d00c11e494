"""From figures to tables, pictures and JSON: every figure is that of the runs, a failure is called a failure."""

from __future__ import annotations

import json
import statistics

import pytest

from moco.sweep.folder import GridFolder
from moco.sweep.job import write_failure
from moco.sweep.plot import draw
from moco.sweep.report import table_lines, write
from moco.sweep.rows import tables
from tests.sweep.grids import plan, put, settings


@pytest.fixture
def folder(tmp_path):
    return GridFolder(tmp_path / "grid")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_mean_and_deviation_over_the_finished_seeds(folder):
    made = plan("momentum", seeds=(0, 1, 2), values=[0.9])
    figures = (0.61, 0.64, 0.7)
    for run, value in zip(made.runs, figures, strict=True):
        put(folder, run, knn_top1=value)
    (table,) = tables(made, folder)
    (row,) = table.rows
    assert row.values["knn_top1"] == figures
    assert row.mean("knn_top1") == pytest.approx(statistics.fmean(figures))
    assert row.std("knn_top1") == pytest.approx(statistics.stdev(figures))
    assert tables(plan("momentum", values=[0.9]), folder)[0].rows[0].std("knn_top1") is None, "of one seed"
    heading, _, line = map(cells, table_lines(table))
    assert dict(zip(heading, line, strict=True))["kNN %"] == "65.0 ± 4.6"


def test_what_has_failed_and_what_is_open_is_said(folder):
    made = plan("momentum", seeds=(0, 1), values=[0.0, 0.9, 0.99])
    for name in ("m0-seed0", "m0-seed1", "m0.9-seed1"):
        write_failure(folder.run(name), "the loss is nan at step 40")
    put(folder, made.runs[1])
    (table,) = tables(made, folder)
    none, one, unknown = map(cells, table_lines(table)[2:])
    assert none[:3] == ["0", "**failed**", "-"]
    assert one[1] == "50.0 (1 failed of 2 seeds)"
    assert unknown[1] == "not run yet"
    assert [row.failed for row in table.rows] == [True, False, False]


def test_the_files_hold_the_figures_the_failures_and_the_labels(folder):
    given = settings("mechanism", out=folder.path, values=[8, 16])
    made = plan("mechanism", values=[8, 16])
    for run in made.runs:
        put(folder, run, knn_top1=0.25)
    write_failure(folder.run("memory-bank-K8-seed0"), "the loss is nan at step 40")
    result = write(given, folder, made, "finished", "")
    assert {path.name for path in result.files} == {"ablation.md", "ablation.json", "mechanism.svg", "mechanism.png"}
    content = json.loads((folder.path / "ablation.json").read_text())
    rows = {row["label"]: row for row in content["studies"][0]["rows"]}
    assert rows["moco, K = 8"]["knn_top1"] == {"mean": 0.25, "std": None, "values": [0.25]}
    assert rows["memory-bank, K = 8"]["failures"] == {"memory-bank-K8-seed0": "the loss is nan at step 40"}
    page = (folder.path / "ablation.md").read_text()
    assert "| moco, K = 8 | 25.0 | 60.0 |" in page
    assert "memory-bank-K8-seed0 failed: the loss is nan at step 40" in page
    picture = (folder.path / "mechanism.svg").read_text()
    words = ("MoCo", "memory bank", "end-to-end", "K, number of negatives", "kNN, top-1", "failed", ">16<")
    assert not [word for word in words if word not in picture]
    assert (folder.path / "mechanism.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("study", ["momentum", "batchnorm", "temperature", "v2"])
def test_every_kind_of_axis_is_drawn_and_the_same_again(folder, study):
    made = plan(study, seeds=(0, 1), options={"steps": 4, "epochs": None, "split_groups": None})
    for number, run in enumerate(made.runs):
        put(folder, run, knn_top1=0.3 + 0.01 * number)
    (table,) = tables(made, folder)
    svg, png = draw(table, folder.path)
    first = svg.read_text()
    assert table.study.axis_label in first
    assert all(f">{point.label}<" in first for point in made.studies[0].points)
    assert png.stat().st_size > 5_000
    draw(table, folder.path)
    assert svg.read_text() == first
