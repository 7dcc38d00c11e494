"""Semantic segmentation as a task: it learns, its loss leaves out void, the truth scores 100."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image
from torch import nn

from moco.encoder import SmallResNet
from moco.errors import ConfigError
from moco.transfer.fine_tuning.loop import FineTuning
from moco.transfer.fine_tuning.options import Options
from moco.transfer.fine_tuning.schedule import named
from moco.transfer.label_maps.mean_iou import VOID
from moco.transfer.label_maps.reading import open_label_maps
from moco.transfer.semantic.segmentation import SemanticSegmentation
from tests.transfer.label_folders import COLORS, write_annot


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripes")
    train = open_label_maps(write_annot(folder / "train", void=200), use="train", void=200)
    test = open_label_maps(write_annot(folder / "test", 3, void=200), use="test", like=train)
    return SemanticSegmentation(train, test, crop=48, batch_size=4)


class Oracle(nn.Module):
    """Logits that tell the class of a color."""

    def __init__(self, task):
        super().__init__()
        self.task, self.unused = task, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.task.mean, self.task.std))
        colors = ((images * std + mean) * 255).permute(0, 2, 3, 1)[..., None, :]
        return -(colors - torch.from_numpy(COLORS).float()).square().sum(-1).permute(0, 3, 1, 2) + self.unused


def test_a_model_that_says_the_truth_scores_100(task):
    figures = task.score(Oracle(task))
    assert figures["mIoU"] == figures["pixel accuracy"] == figures["IoU/0"] == 100


def test_void_pixels_have_no_loss_and_no_gradient(task):
    images, labels = next(task.batches(seed=0, start=0))
    model = task.model(SmallResNet(width=4)).eval()
    other = labels.clone()
    other[:, :20] = VOID
    kept = task.loss(model, (images, other))
    logits = model(task._normalized(images, torch.device("cpu")))[:, :, 20:]
    seen = labels[:, 20:] != VOID
    chosen = logits.log_softmax(1).gather(1, labels[:, 20:].clamp(max=2).long()[:, None])[:, 0]
    torch.testing.assert_close(kept, -chosen[seen].mean())
    assert task.loss(model, (images, torch.full_like(labels, VOID))) == 0


def test_a_batch_follows_from_the_seed_and_its_number(task):
    later = task.batches(seed=3, start=2)
    batches = task.batches(seed=3, start=0)
    _, _, third = (next(batches) for _ in range(3))
    assert all(torch.equal(a, b) for a, b in zip(third, next(later), strict=True))


def test_it_learns_what_colors_tell(task, tmp_path):
    schedule = named("cityscapes-semantic-90k").scaled(30)
    run = FineTuning(task, SmallResNet(width=8), schedule=schedule, seed=0, options=Options(precise=4, quiet=True))
    progress = run.run()
    assert progress.scores[-1][1]["mIoU"] > 60
    task.picture({"random": run.model}, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.parametrize(("crop", "batch_size"), [(16, 4), (48, 7), (48, 1)])
def test_settings_that_cannot_work_are_refused(task, crop, batch_size):
    with pytest.raises(ConfigError):
        SemanticSegmentation(task.train, task.test, crop=crop, batch_size=batch_size)


def test_settings_are_plain_data(task):
    assert json.loads(json.dumps(task.settings()))["classes"] == ["0", "1", "2"]
    assert math.isfinite(task.settings()["crop"])
