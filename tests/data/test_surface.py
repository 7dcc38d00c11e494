"""Points of persons' surfaces in drawn scenes: they lie on the parts, and say where on them."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from moco.data.picturebook.annotation import PARTS, annotate, part_map, part_names
from moco.data.picturebook.scene import KINDS, draw_scene, scene_stream, surface_stream
from moco.data.picturebook.scene_folder import write_scenes
from moco.data.picturebook.surface import LAST, POINTS, SIDE, dense_pose, on_chart, run_lengths

SIZE = 64
LIMBS = PARTS[:4]


@functools.cache
def persons(count=40):
    """Persons of scenes: the polygons, the box, the scene's parts, the entries."""
    found = []
    for index in range(count):
        _, objects = draw_scene(KINDS["people"].weights, SIZE, scene_stream(3, "people", index))
        parts, generator = part_map(objects, SIZE), surface_stream(3, index)
        for each, own in zip(objects, annotate(objects, SIZE), strict=True):
            if each.name == "person":
                found.append((each, own.box, parts, dense_pose(each, own.box, parts, generator)))
    return found


def in_pixels(box, entries):
    left, top, right, bottom = box
    x, y = np.array(entries["dp_x"]), np.array(entries["dp_y"])
    return np.stack([left + x / LAST * (right - left), top + y / LAST * (bottom - top)], axis=1)


def decoded(runs):
    """The naive twin of compressed run lengths: characters back to lengths, lengths back to columns of a mask."""
    lengths, value, shift = [], 0, 0
    for character in runs["counts"]:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value, shift = 0, 0
    height, width = runs["size"]
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths)
    return flat.reshape(width, height).T > 0


def naive_uv(person, name, x, y):
    """Shares of the way from the limb's near end to its far one, and from its inner side to the outer one."""
    number = part_names(person).index(name)
    near, far = ((np.add(*(person.outlines[number][i] for i in ends)) / 2) * SIZE for ends in ((0, 3), (1, 2)))
    along, middle = far - near, (near + far) / 2
    length, width = np.linalg.norm(along), np.linalg.norm(np.subtract(*(person.outlines[number][i] for i in (0, 3))))
    across = np.array([along[1], -along[0]]) / length
    # The outer side is away from the other leg; of an arm, away from the torso as seen from the shoulder.
    torso, others = PARTS.index("torso"), {0: 1, 1: 0, 2: 3, 3: 2}
    inside = np.mean(person.outlines[torso if "arm" in name else others[number]], axis=0) * SIZE
    across *= -np.sign(across @ (inside - (near if "arm" in name else middle)))
    apart = np.array([x, y]) - middle
    return 0.5 + apart @ along / length / (length + 0.5), 0.5 + apart @ across / (width * SIZE + 0.5)


def test_points_lie_on_the_part_that_the_label_map_names():
    seen = set()
    for _, box, parts, entries in persons():
        pixels = np.floor(in_pixels(box, entries)).astype(int)
        assert parts[pixels[:, 1], pixels[:, 0]].tolist() == entries["dp_I"]
        seen |= set(entries["dp_I"])
        places = list(zip(*pixels.T.tolist(), strict=True))
        assert len(set(places)) == len(places), "each pixel once"
        available = np.bincount(parts[parts > 0], minlength=len(PARTS) + 1)
        counts = np.bincount(entries["dp_I"], minlength=len(PARTS) + 1)
        assert counts.max() <= POINTS
        assert (counts <= available).all()
        assert counts.sum() >= 30
    assert seen == set(range(1, len(PARTS) + 1))


def test_u_and_v_of_limbs_equal_the_naive_twin():
    compared = 0
    for person, box, _, entries in persons():
        for (x, y), part, u, v in zip(
            in_pixels(box, entries), *(entries[name] for name in ("dp_I", "dp_U", "dp_V")), strict=True
        ):
            name = PARTS[part - 1]
            assert 0 <= u <= 1
            assert 0 <= v <= 1
            if name in LIMBS:
                assert np.clip(naive_uv(person, name, x, y), 0, 1) == pytest.approx((u, v), abs=2e-3), name
                compared += 1
    assert compared > 1000


def test_u_and_v_grow_along_and_across_and_reach_0_and_1():
    """Head and torso: down, and from the person's right, our left. Limbs are compared with their twin."""
    person, *_ = persons()[0]
    for name in ("head", "torso"):
        corners = SIZE * np.array(person.outlines[PARTS.index(name)])
        middle, extent = corners.mean(axis=0), np.ptp(corners, axis=0).max()
        steps = np.linspace(-extent, extent, 41)
        u, v = (on_chart(person, PARTS.index(name) + 1, middle + steps[:, None] * on, SIZE) for on in ((0, 1), (1, 0)))
        for values in (u[:, 0], v[:, 1]):
            assert (np.diff(values) >= 0).all()
            assert (values[0], values[-1]) == (0, 1)
            assert (np.diff(values)[(values[1:] > 0) & (values[:-1] < 1)] > 0).all()
    spread = [np.ptp(entries[axis]) for *_, entries in persons() for axis in ("dp_U", "dp_V")]
    assert min(spread) > 0.8


def test_the_mirrored_person_has_left_and_right_exchanged_and_the_same_places():
    for person, *_ in persons()[:30]:
        turned = tuple([(1 - x, y) for x, y in outline] for outline in person.outlines)
        other = dataclasses.replace(person, outlines=turned, mirrored=not person.mirrored)
        points = np.random.default_rng(0).uniform(0, SIZE, (20, 2))
        for part, name in enumerate(PARTS, start=1):
            swapped = {"left": "right", "right": "left"}
            partner = PARTS.index("_".join(swapped.get(word, word) for word in name.split("_"))) + 1
            own, its = (
                on_chart(person, part, points, SIZE),
                on_chart(other, partner, [SIZE, 0] + [-1, 1] * points, SIZE),
            )
            np.testing.assert_allclose(own, its if name in LIMBS else [0, 1] + [1, -1] * its, atol=1e-6)


def test_silhouettes_are_the_parts_in_the_box():
    for _, (left, top, right, bottom), parts, entries in persons()[:30]:
        assert len(entries["dp_masks"]) == len(PARTS)
        shown = np.zeros((SIDE, SIDE), int)
        for part, runs in enumerate(entries["dp_masks"], start=1):
            if runs:
                mask = decoded(runs)
                assert mask.shape == (SIDE, SIDE)
                assert mask.any()
                assert not shown[mask].any()
                shown[mask] = part
        for row, column in np.random.default_rng(0).integers(0, SIDE, (200, 2)):
            x, y = left + (column + 0.5) / SIDE * (right - left), top + (row + 0.5) / SIDE * (bottom - top)
            assert shown[row, column] == parts[int(y), int(x)]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_equal_the_evaluators(share):
    library = pytest.importorskip("faster_coco_eval.core.mask")
    mask = np.random.default_rng(1).random((100, 70)) < share
    theirs = library.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    assert run_lengths(mask) == {"size": [100, 70], "counts": theirs.decode("ascii")}
    np.testing.assert_array_equal(decoded(run_lengths(mask)), mask)


def test_a_person_of_no_pixel_is_a_box_alone():
    person, box, parts, _ = persons()[0]
    assert dense_pose(person, box, np.zeros_like(parts), np.random.default_rng(0)) == {}


def test_a_scenes_points_are_the_same_whatever_the_number_and_differ_between_parts(tmp_path):
    files = {}
    for name, (train, test) in {"few": (3, 2), "more": (5, 4)}.items():
        write_scenes(tmp_path / name, train=train, test=test, size=48, seed=4)
        for part in ("train", "test"):
            content = json.loads((tmp_path / name / f"people/densepose_{part}.json").read_text())
            plain = json.loads((tmp_path / name / f"people/keypoints_{part}.json").read_text())
            bare = [{k: v for k, v in e.items() if not k.startswith("dp_")} for e in content["annotations"]]
            assert {**content, "annotations": bare} == plain
            files[name, part] = content["annotations"]
    for part in ("train", "test"):
        few = files["few", part]
        assert few
        assert few == files["more", part][: len(few)]
    assert len({len(each) for each in files.values()}) > 1
