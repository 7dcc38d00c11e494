"""Mixed precision: what is trained in it, what is not, and where it is refused."""

import dataclasses
import json

import pytest
import torch

from moco.commands import transfer_device
from moco.commands.transfer_device import usable_precision
from moco.errors import ConfigError, RunError
from moco.transfer.fine_tuning.options import Options
from moco.transfer.networks.detector import fpn_detector
from tests.transfer.drawn import make_task, settings
from tests.transfer.test_fine_tune import QUIET, backbone, run_of, same

MIXED = dataclasses.replace(QUIET, precision="bf16")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make_task(tmp_path_factory.mktemp("drawn"), "instance-segmentation")


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_on_a_gpu_that_has_it_alone(monkeypatch, native):
    monkeypatch.setattr(transfer_device, "multiplies_bf16", lambda device: native)
    assert usable_precision("auto", "cuda:1") == ("bf16" if native else "fp32")
    assert usable_precision("auto", "cpu") == "fp32"
    assert usable_precision("fp32", "cuda") == "fp32"


def test_bf16_is_refused_where_it_would_be_emulated(monkeypatch):
    monkeypatch.setattr(transfer_device, "multiplies_bf16", lambda device: False)
    with pytest.raises(ConfigError, match="precision='bf16' on cpu: it would be emulated there; choose fp32 or auto"):
        usable_precision("bf16", "cpu")


def test_training_is_mixed_and_tests_are_not(task, monkeypatch):
    seen = {"train": set(), "test": set()}

    def note(layer, inputs, output):
        seen["test" if torch.is_grad_enabled() is False else "train"].add(output.dtype)

    run = run_of(task, options=MIXED)
    run.model.backbone.body.conv1.register_forward_hook(note)
    run.run()
    assert seen == {"train": {torch.bfloat16}, "test": {torch.float32}}
    assert {value.dtype for value in run.model.parameters()} == {torch.float32}
    plain = run_of(task)
    plain.run()
    assert not same(plain.model, run.model)
    found, expected = run.progress.curve[0][1], plain.progress.curve[0][1]
    assert found == pytest.approx(expected, rel=0.2)  # other proposals are drawn


def test_anchors_are_exact_under_autocast():
    model = fpn_detector(backbone(), settings())
    maps, images = [torch.zeros(1, 8, side, side) for side in (96, 48, 24, 12)], _images(384)
    whole = model.rpn.anchor_generator(images, maps)
    mixed = model.rpn.anchor_generator(images, [each.bfloat16() for each in maps])
    assert torch.equal(whole[0], mixed[0])
    assert len(torch.unique(mixed[0][:, 0])) > 96


def _images(side):
    from torchvision.models.detection.image_list import ImageList

    return ImageList(torch.zeros(1, 3, side, side), [(side, side)])


def test_precision_is_stated_and_a_run_of_another_is_refused(task, tmp_path):
    file = tmp_path / "last.pt"
    run_of(task, options=MIXED, checkpoint=file).run()
    with pytest.raises(RunError, match="another precision"):
        run_of(task, checkpoint=file)
    said = json.loads(json.dumps(Options(precision="bf16").stated()))
    assert (said["precision"], said["precision_of_tests"]) == ("bf16", "fp32")
