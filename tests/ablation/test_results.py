"""From outcomes to tables, pictures and JSON: every figure is that of the runs, a failure is called a failure."""

from __future__ import annotations

import json
import statistics

import pytest

from moco.ablation.markdown import table_lines
from moco.ablation.plot import draw
from moco.ablation.report import write
from moco.ablation.rows import tables
from moco.ablation.store import Store
from tests.ablation.grids import finished, plan, put, settings


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "grid")
    store.take()
    store.note(asked={"data": None, "recipe": "cifar", "options": {}}, images=40, hardware="a processor")
    yield store
    store.close()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_mean_and_deviation_over_the_finished_seeds(store):
    made = plan("momentum", seeds=(0, 1, 2), values=[0.9])
    figures = {0: 0.61, 1: 0.64, 2: 0.7}
    for seed, value in figures.items():
        put(store, f"m0.9-seed{seed}", finished(made.runs[seed], knn_top1=value))
    (row,) = tables(made, store.outcome)[0].rows
    assert row.values["knn_top1"] == (0.61, 0.64, 0.7)
    assert row.mean("knn_top1") == pytest.approx(statistics.fmean(figures.values()))
    assert row.std("knn_top1") == pytest.approx(statistics.stdev(figures.values()))
    (heading, _, line) = table_lines(tables(made, store.outcome)[0])
    assert dict(zip(cells(heading), cells(line), strict=True))["kNN %"] == "65.0 ± 4.6"


def test_one_seed_has_no_deviation(store):
    made = plan("momentum", values=[0.9])
    put(store, "m0.9-seed0", finished(made.runs[0]))
    (row,) = tables(made, store.outcome)[0].rows
    assert row.std("knn_top1") is None
    assert "±" not in table_lines(tables(made, store.outcome)[0])[2]


def test_what_has_failed_and_what_is_open_is_said(store):
    made = plan("momentum", seeds=(0, 1), values=[0.0, 0.9, 0.99])
    for seed in (0, 1):
        put(store, f"m0-seed{seed}", {"state": "failed", "reason": "the loss is nan at step 40"})
    put(store, "m0.9-seed0", finished(made.runs[0]))
    put(store, "m0.9-seed1", {"state": "failed", "reason": "out of memory"})
    (table,) = tables(made, store.outcome)
    _, _, none, one, unknown = table_lines(table)
    assert cells(none)[:3] == ["0", "**failed**", "-"]
    assert cells(one)[1] == "50.0 (1 failed of 2 seeds)"
    assert cells(unknown)[1] == "not run yet"
    assert [row.failed for row in table.rows] == [True, False, False]


def test_the_files_hold_the_figures_the_failures_and_the_labels(store):
    asked = settings("mechanism", out=store.path, values=[8, 16])
    made = plan("mechanism", values=[8, 16])
    for run in made.runs:
        put(store, run.name, finished(run, knn_top1=0.25))
    put(store, "memory-bank-K8-seed0", {"state": "failed", "reason": "the loss is nan at step 40"})
    result = write(asked, store, made, "finished", "")
    assert {path.name for path in result.files} == {"ablation.md", "ablation.json", "mechanism.svg", "mechanism.png"}
    content = json.loads((store.path / "ablation.json").read_text())
    rows = {row["label"]: row for row in content["studies"][0]["rows"]}
    assert rows["moco, K = 8"]["knn_top1"] == {"mean": 0.25, "std": None, "values": [0.25]}
    assert rows["memory-bank, K = 8"]["failures"] == {"memory-bank-K8-seed0": "the loss is nan at step 40"}
    page = (store.path / "ablation.md").read_text()
    assert "| moco, K = 8 | 25.0 | 60.0 |" in page
    assert "memory-bank-K8-seed0 failed: the loss is nan at step 40" in page
    picture = (store.path / "mechanism.svg").read_text()
    for words in (
        "MoCo",
        "memory bank",
        "end-to-end",
        "K, number of negatives",
        "kNN, top-1 accuracy",
        "failed",
        ">16<",
    ):
        assert words in picture, words
    assert (store.path / "mechanism.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("study", ["momentum", "batchnorm", "temperature", "v2"])
def test_every_kind_of_axis_is_drawn_and_the_same_again(store, study):
    made = plan(study, seeds=(0, 1), options={"steps": 4, "epochs": None, "split_groups": None})
    for number, run in enumerate(made.runs):
        put(store, run.name, finished(run, knn_top1=0.3 + 0.01 * number))
    (table,) = tables(made, store.outcome)
    svg, png = draw(table, store.path)
    first = svg.read_bytes()
    text = first.decode()
    assert table.study.axis_label in text
    for point in made.studies[0].points:
        assert f">{point.label}<" in text, point.label
    assert png.stat().st_size > 5_000
    draw(table, store.path)
    assert svg.read_bytes() == first


def test_nothing_is_drawn_of_nothing(store):
    (table,) = tables(plan("momentum"), store.outcome)
    assert draw(table, store.path) == []
    assert "not run yet" in "\n".join(table_lines(table))
