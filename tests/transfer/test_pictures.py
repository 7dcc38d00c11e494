"""What pictures of answers show: areas, outlines, skeletons, keys; and what they leave alone."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from moco.transfer.annotations import open_annotations
from moco.transfer.annotations.masks import runs_of
from moco.transfer.dense_pose.picture import _COLOURS, _read, draw_surfaces
from moco.transfer.detection.average_precision import Found
from moco.transfer.detection.picture import draw_answers
from moco.transfer.networks.dense_head import read_surface
from moco.transfer.pictures.sheet import _LINE, _MARGIN, SIDE, colour, paint, tile, write_sheet
from moco.transfer.semantic.picture import draw_label_maps
from tests.transfer.drawn import HEIGHT, WIDTH, draw_coco
from tests.transfer.drawn_people import UPPER, draw_people

RED = (255, 0, 0)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """One image of a file that has polygons and keypoints both, as COCO's keypoint files do."""
    found = open_annotations(draw_coco(tmp_path_factory.mktemp("drawn"), 1))
    assert found.skeleton is not None
    return found


def answered(shape=(HEIGHT, WIDTH), score=0.9):
    mask = np.zeros(shape, np.uint8)
    mask[10:30, 10:40] = 1
    points = np.array([[[12.0, 28, 1], [25, 12, 1], [38, 28, 1]]])
    return Found(np.array([[10.0, 10, 40, 30]]), np.array([1]), np.array([score]), [runs_of(mask)], points)


def row_of(file, number):
    """The first tile of a row, as written."""
    sheet, height = np.asarray(Image.open(file).convert("RGB")).astype(int), round(SIDE * HEIGHT / WIDTH)
    top = number * (height + _LINE + 6) + _LINE
    return sheet[top : top + height, _MARGIN : _MARGIN + SIDE]


def changed(annotations, file, kind, found, row):
    """Where a row differs from the muted image."""
    draw_answers(annotations, {"moco": [found]}, kind, file)
    plain = np.asarray(tile(annotations.images[0].path, muted=True)).astype(int)
    return np.abs(row_of(file, row) - plain).max(axis=2) > 2


def test_masks_are_shown_of_a_file_that_has_keypoints_too(annotations, tmp_path):
    scale = SIDE / WIDTH
    middle = tuple(slice(round(scale * low), round(scale * high)) for low, high in ((18, 26), (18, 34)))
    assert changed(annotations, tmp_path / "a.png", "segm", answered(), 2)[middle].all()
    assert not changed(annotations, tmp_path / "b.png", "bbox", answered(), 2)[middle].any()
    left, top, right, bottom = (round(scale * value) for value in annotations.images[0].instances[0].box)
    truth = changed(annotations, tmp_path / "c.png", "segm", answered(), 1)[top:bottom, left:right]
    assert truth.mean() > 0.95


def test_skeletons_are_shown_where_keypoints_are_learnt(annotations, tmp_path):
    along = (round(20 * SIDE / WIDTH), round(18.5 * SIDE / WIDTH))  # between the first two points
    assert changed(annotations, tmp_path / "a.png", "keypoints", answered(), 2)[along]
    assert not changed(annotations, tmp_path / "b.png", "bbox", answered(), 2)[along]


def test_unsure_answers_are_not_drawn(annotations, tmp_path):
    assert not changed(annotations, tmp_path / "a.png", "segm", answered(score=0.4), 2).any()


def test_areas_are_translucent_their_outlines_solid_and_the_rest_untouched():
    shown, areas = Image.new("RGB", (12, 12), (0, 0, 200)), np.zeros((6, 6), np.uint8)
    areas[1:5, 1:5], areas[0, 5] = 1, 2  # 2 has no colour
    paint(shown, areas, {1: RED})
    pixels, inside = np.asarray(shown), np.zeros((12, 12), bool)
    inside[2:10, 2:10] = True
    assert (pixels[~inside] == (0, 0, 200)).all()
    assert (pixels[2, 2:10] == RED).all()
    assert (pixels[3:9, 3:9] == (128, 0, 100)).all()


def test_small_images_are_enlarged_and_large_ones_reduced(tmp_path):
    for size, expected in {(16, 8): (SIDE, SIDE // 2), (1000, 4000): (SIDE // 4, SIDE)}.items():
        Image.new("L", size).save(tmp_path / "image.png")
        shown = tile(tmp_path / "image.png")
        assert (shown.size, shown.mode) == (expected, "RGB")


def test_the_bodys_parts_can_be_told_apart():
    pairs = itertools.combinations(map(np.array, _COLOURS.values()), 2)
    assert len(_COLOURS) == 24
    assert min(np.abs(first - second).sum() for first, second in pairs) > 25


def test_a_long_key_is_broken_into_lines_inside_the_sheet(tmp_path):
    key = {f"class number {number}": colour(number) for number in range(30)}
    write_sheet({"truth": [Image.new("RGB", (SIDE, 40))]}, key, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert pixels.shape[1] == SIDE + 2 * _MARGIN
    assert (pixels[:, -2:] == 255).all(), "nothing is cut off"
    assert all((pixels == on).all(axis=2).any() for on in key.values())


def test_void_and_classes_are_painted_and_the_background_is_not(tmp_path):
    Image.new("RGB", (4, 3), (90, 90, 90)).save(tmp_path / "image.png")
    labels = torch.tensor([[0, 0, 1, 255]] * 3, dtype=torch.uint8)
    draw_label_maps([tmp_path / "image.png"], {"truth": [labels]}, ["background", "car", "unseen"], tmp_path / "a.png")
    shown = np.asarray(Image.open(tmp_path / "a.png"))[240 + 2 * _LINE + 6 + 100, _MARGIN : _MARGIN + SIDE]
    assert (shown[40] == 90).all()
    assert (shown[200] == np.round((np.array(colour(1)) + 90) / 2)).all()
    assert (shown[300] == 45).all()


def test_parts_and_charts_are_read_at_each_pixel_of_the_box():
    surface = torch.randn(1, 77, 8, 8, generator=torch.Generator().manual_seed(0))
    parts, uv = _read(surface, 5, 3)
    for y, x in itertools.product(range(3), range(5)):
        part, place = read_surface(surface, torch.tensor([[[(x + 0.5) / 5, (y + 0.5) / 3]]]))
        assert parts[y, x] == part.item()
        assert uv[y, x].tolist() == place[0, 0].tolist()


def test_surfaces_have_a_row_of_parts_and_one_of_u_and_v(tmp_path):
    """An answer of one part all over its box, whose U grows to the right and whose V grows down."""
    truth = open_annotations(draw_people(tmp_path, 1))
    answer, middles = torch.zeros(1, 77, 32, 32), (torch.arange(32) + 0.5) / 32
    answer[:, 1], answer[:, 2 + UPPER] = 1, 1
    answer[:, 27 + UPPER], answer[:, 52 + UPPER] = middles, middles[:, None]
    found = Found(np.array([[10.0, 10, 40, 30]]), np.array([1]), np.array([0.9]))
    draw_surfaces(truth, {"moco": [(found, {"surface": answer})]}, tmp_path / "a.png")
    plain, scale = np.asarray(tile(truth.images[0].path, muted=True)).astype(int), SIDE / WIDTH
    added = 2 * row_of(tmp_path / "a.png", 4) - plain  # a half of what is seen, but on lines
    whole, middle = range(12, 29), range(12, 39)
    sides = {
        "left": ([11], whole, (0, None)),
        "right": ([39], whole, (255, None)),
        "top": (middle, [11], (None, 0)),
        "bottom": (middle, [29], (None, 255)),
    }
    for name, (columns, lines, expected) in sides.items():
        places = itertools.product(columns, lines)
        pixels = np.array([added[round(scale * y), round(scale * x)] for x, y in places])
        *red_green, blue = np.median(pixels, axis=0)
        assert abs(blue - 160) <= 1, name
        assert all(wanted is None or abs(said - wanted) <= 1 for said, wanted in zip(red_green, expected, strict=True))
    parts = row_of(tmp_path / "a.png", 3)[round(scale * 20), round(scale * 25)]
    assert np.abs(2 * parts - plain[round(scale * 20), round(scale * 25)] - _COLOURS[UPPER]).max() <= 1
