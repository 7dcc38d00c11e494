"""detectron2's configurations of the paper's runs: documented options, their types, and the paper's figures."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

import moco
from moco.cli.functions import COMMANDS, make_parser
from moco.errors import ConfigError, RunError
from moco.export.detectron2_runs import C4_HEADS, RUNS, fitting_runs
from moco.transfer.fine_tuning.schedule import named
from tests.export.detectron2_options import OPTIONS
from tests.export.models import trained, written

# Of a run the schedule of `moco transfer`, whose sources are the paper's.
SCHEDULES = {
    "voc_R_50_C4_24k": "paper-voc-24k",
    "coco_R_50_C4_1x": "coco-1x",
    "coco_R_50_C4_2x": "coco-2x",
    "coco_R_50_FPN_1x": "coco-1x",
    "coco_R_50_FPN_2x": "coco-2x",
    "keypoints_R_50_FPN_2x": "keypoints-2x",
    "lvis_v0.5_R_50_FPN_2x": "lvis-2x",
    "cityscapes_R_50_FPN_24k": "cityscapes-24k",
    "densepose_R_50_FPN_s1x": "densepose-s1x",
}


def flat(tree, prefix=""):
    """Mappings in mappings as dotted names."""
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    run = written(folder / "run", trained("resnet50", image_size=72))
    return moco.export_weights(run, format="detectron2", out=folder / "moco.pth", configs=folder / "configs")


@pytest.fixture(scope="module")
def read(exported):
    return {file.stem: flat(yaml.safe_load(file.read_text())) for file in exported.configurations}


def test_there_is_a_file_for_each_of_the_papers_runs(exported, read):
    assert set(read) == set(SCHEDULES)
    assert all(str(file) in str(exported) for file in exported.configurations)
    assert exported.as_dict()["configurations"] == [str(file) for file in exported.configurations]


def test_options_are_documented_and_of_their_types(read):
    for name, options in read.items():
        wrong = {option: value for option, value in options.items() if type(value) is not OPTIONS.get(option)}
        assert not wrong, name


def test_the_weights_own_options_are_in_each_file(exported, read):
    content = torch.load(exported.path, weights_only=True)
    for options in read.values():
        assert options.items() >= content["config"].items()
        assert options["MODEL.WEIGHTS"] == str(exported.path)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_transfer(read, name):
    options, schedule = read[name], named(SCHEDULES[name])
    assert options["SOLVER.MAX_ITER"] == schedule.iterations
    assert options["SOLVER.STEPS"] == list(schedule.milestones)
    assert options["SOLVER.BASE_LR"] == schedule.learning_rate
    assert options["SOLVER.IMS_PER_BATCH"] == schedule.batch_size
    assert options["SOLVER.WARMUP_ITERS"] == schedule.warmup


def test_everything_is_tuned_with_batchnorm_over_all_devices(read):
    for name, options in read.items():
        assert options["MODEL.BACKBONE.FREEZE_AT"] == 0
        assert options["MODEL.RESNETS.NORM"] == ("naiveSyncBN" if "C4" in name else "SyncBN")
        assert options["TEST.PRECISE_BN.ENABLED"] is True
        assert options["MODEL.RESNETS.STRIDE_IN_1X1"] is False
        assert options["INPUT.FORMAT"] == "RGB"
        if "C4" in name:
            assert options["MODEL.ROI_HEADS.NAME"] == C4_HEADS
        else:
            assert options["MODEL.FPN.NORM"] == "SyncBN"
            assert not [option for option in options if "HEAD" in option and option.endswith("NORM")]


def test_data_and_sizes_are_the_papers(read):
    voc, lvis, city = read["voc_R_50_C4_24k"], read["lvis_v0.5_R_50_FPN_2x"], read["cityscapes_R_50_FPN_24k"]
    assert (voc["INPUT.MIN_SIZE_TRAIN"][0], voc["INPUT.MIN_SIZE_TRAIN"][-1], voc["INPUT.MIN_SIZE_TEST"]) == (
        480,
        800,
        800,
    )
    assert voc["DATASETS.TRAIN"] == ["voc_2007_trainval", "voc_2012_trainval"]
    assert (lvis["TEST.DETECTIONS_PER_IMAGE"], lvis["DATALOADER.REPEAT_THRESHOLD"]) == (300, 0.001)
    assert (city["INPUT.MAX_SIZE_TEST"], city["MODEL.ROI_HEADS.NUM_CLASSES"]) == (2048, 8)
    masks = {name for name, options in read.items() if options.get("MODEL.MASK_ON")}
    assert masks == {name for name in read if name.startswith(("coco", "lvis", "city"))}


def test_exported_names_are_those_of_detectron2s_resnet(exported):
    """Written out from its documented layout: stem, res2 to res5, three convolutions with their norms, shortcuts."""
    norm = [f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    modules = ["stem.conv1"]
    for stage, blocks in zip(("res2", "res3", "res4", "res5"), (3, 4, 6, 3), strict=True):
        modules.append(f"{stage}.0.shortcut")
        modules += [f"{stage}.{block}.conv{number}" for block in range(blocks) for number in (1, 2, 3)]
    expected = {f"{module}.{tensor}" for module in modules for tensor in ("weight", *norm)}
    assert set(torch.load(exported.path, weights_only=True)["model"]) == expected


def test_the_page_names_every_run_and_the_head():
    text = (Path(__file__).resolve().parents[2] / "docs" / "detectron2.md").read_text(encoding="utf-8")
    table = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\S+?)`", row)}
    assert table == set(SCHEDULES)
    code = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    assert [node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef)] == [C4_HEADS]
    command = re.search(r"^moco export (.*)$", text, re.MULTILINE)[1]
    chosen = make_parser(COMMANDS["export"]).parse_args(shlex.split(command), defaults=False)
    assert (chosen["format"], chosen["configs"]) == ("detectron2", "photos-detectron2")


def test_networks_of_basic_blocks_have_no_c4_run():
    names = set(fitting_runs({"MODEL.RESNETS.DEPTH": 18}))
    assert names == {name.format(18) for name in RUNS if "C4" not in name}


def test_configurations_are_refused_where_they_would_change_nothing_or_replace(exported, tmp_path):
    run = exported.path.parent / "run"
    with pytest.raises(ConfigError, match="configs=x would change nothing with format timm"):
        moco.export_weights(run, format="timm", out=tmp_path / "timm", configs="x")
    with pytest.raises(RunError, match="has YAML files already"):
        moco.export_weights(run, format="detectron2", out=tmp_path / "a.pth", configs=exported.path.parent / "configs")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        moco.export_weights(run, format="detectron2", out=tmp_path / "a.pth", configs=tmp_path / "file")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
