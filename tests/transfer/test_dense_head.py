"""The surface head: its answers at points, its losses and their gradients."""

import math

import pytest
import torch

from moco.encoder import build_backbone
from moco.transfer.networks.dense_head import (
    CELLS,
    CHANNELS,
    CHART_WEIGHT,
    PART_WEIGHT,
    SILHOUETTE_WEIGHT,
    SurfaceHead,
    at_points,
    read_surface,
    surface_losses,
)
from moco.transfer.networks.dense_targets import SurfaceTruth
from tests.transfer.drawn_people import make_people

pytest.importorskip("faster_coco_eval")


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, sum(CHANNELS), 8, 8, generator=generator).requires_grad_()


@pytest.fixture
def truth():
    generator = torch.Generator().manual_seed(1)
    parts = torch.tensor([[3, 7, -1], [24, -1, -1]])
    uv = torch.rand(2, 3, 2, generator=generator)
    silhouettes = torch.randint(0, 2, (2, 8, 8), generator=generator)
    return SurfaceTruth(torch.rand(2, 3, 2, generator=generator), parts, uv, silhouettes)


def naive_at(image, x, y):
    """Bilinear between the middles of the cells of (H, W), the outermost values beyond them."""
    size = len(image)
    x, y = (min(max(value * size - 0.5, 0), size - 1) for value in (x, y))
    left, top = min(int(x), size - 2), min(int(y), size - 2)
    a, b = x - left, y - top
    upper = (1 - a) * image[top][left] + a * image[top][left + 1]
    lower = (1 - a) * image[top + 1][left] + a * image[top + 1][left + 1]
    return (1 - b) * upper + b * lower


def naive_losses(answers, truth):
    """Point by point, with the definitions of cross-entropy and smooth L1."""
    maps, losses = answers.tolist(), dict.fromkeys(("loss_silhouette", "loss_part", "loss_u", "loss_v"), 0.0)
    points = 0
    for region, silhouette in enumerate(truth.silhouettes.tolist()):
        for row, cells in enumerate(silhouette):
            for column, cell in enumerate(cells):
                logits = [maps[region][channel][row][column] for channel in (0, 1)]
                losses["loss_silhouette"] -= logits[cell] - math.log(sum(map(math.exp, logits)))
        for (x, y), part, uv in zip(
            *(each[region].tolist() for each in (truth.points, truth.parts, truth.uv)), strict=True
        ):
            if part < 0:
                continue
            points += 1
            said = [naive_at(image, x, y) for image in maps[region]]
            logits = said[2:27]
            losses["loss_part"] -= logits[part] - math.log(sum(map(math.exp, logits)))
            for name, start, value in (("loss_u", 27, uv[0]), ("loss_v", 52, uv[1])):
                error = abs(said[start + part] - value)
                losses[name] += 0.5 * error**2 if error < 1 else error - 0.5
    losses["loss_silhouette"] *= SILHOUETTE_WEIGHT / truth.silhouettes.numel()
    losses["loss_part"] *= PART_WEIGHT / points
    return losses | {name: CHART_WEIGHT * losses[name] for name in ("loss_u", "loss_v")}


def test_maps_at_points_equal_the_naive_twin(answers, truth):
    found = at_points(answers, truth.points)
    for region in range(2):
        for point, (x, y) in enumerate(truth.points[region].tolist()):
            assert found[region, 5, point].item() == pytest.approx(
                naive_at(answers[region, 5].tolist(), x, y), abs=1e-5
            )


def test_losses_equal_the_naive_twin(answers, truth):
    found = {name: loss.item() for name, loss in surface_losses(answers, truth).items()}
    assert found == pytest.approx(naive_losses(answers, truth), rel=1e-5)


def test_charts_of_other_parts_get_no_gradient(answers, truth):
    losses = surface_losses(answers, truth)
    (losses["loss_u"] + losses["loss_v"]).backward()
    touched = answers.grad.abs().sum(dim=(0, 2, 3)) > 0
    assert touched.nonzero()[:, 0].tolist() == [27 + 3, 27 + 7, 27 + 24, 52 + 3, 52 + 7, 52 + 24]


@pytest.mark.parametrize("truths", ["none", "no points"])
def test_without_points_the_losses_are_zero_and_finite(answers, truth, truths):
    given = (
        None if truths == "none" else SurfaceTruth(truth.points, torch.full((2, 3), -1), truth.uv, truth.silhouettes)
    )
    losses = surface_losses(answers, given)
    sum(losses.values()).backward()
    assert [losses[name].item() for name in ("loss_part", "loss_u", "loss_v")] == [0, 0, 0]
    assert answers.grad.isfinite().all()


def test_outside_its_box_an_answer_says_background():
    answers = torch.zeros(1, sum(CHANNELS), 4, 4)
    answers[:, 1], answers[:, 2 + 6] = 1.0, 1.0  # a person everywhere, of part 6
    parts, uv = read_surface(answers, torch.tensor([[[0.5, 0.5], [1.2, 0.5], [0.5, -0.1]]]))
    assert parts.tolist() == [[6, 0, 0]]
    assert uv.shape == (1, 3, 2)


def test_background_in_the_silhouette_is_no_part():
    answers = torch.zeros(1, sum(CHANNELS), 4, 4)
    answers[:, 0], answers[:, 2 + 6] = 1.0, 1.0
    assert read_surface(answers, torch.full((1, 1, 2), 0.5))[0].tolist() == [[0]]


def test_the_papers_head():
    """Eight convolutions of 512 channels, and four answers of detectron2's predictor joined in one layer."""
    head = SurfaceHead(256, 512)
    convolutions = 256 * 512 * 9 + 512 + 7 * (512 * 512 * 9 + 512)
    assert sum(each.numel() for each in head.parameters()) == convolutions + 512 * 77 * 16 + 77
    small = SurfaceHead(4, 8)
    assert small(torch.zeros(2, 4, 14, 14)).shape == (2, 77, CELLS, CELLS)


def test_gradients_reach_every_weight(tmp_path):
    task = make_people(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.model(build_backbone("resnet_tiny", image_size=32).module).train()
        losses = model(*next(task.batches(seed=0, start=0)))
    assert {"loss_silhouette", "loss_part", "loss_u", "loss_v"} < set(losses)
    sum(losses.values()).backward()
    assert not [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
