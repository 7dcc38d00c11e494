"""What is read from VOC and COCO files, and what becomes of bad ones."""

import numpy as np
import pytest

from moco.errors import DataError
from moco.transfer.annotations import open_annotations, same_categories
from moco.transfer.annotations.masks import mask_of
from tests.transfer.drawn import HEIGHT, WIDTH, changed, draw_coco, draw_voc


def only(annotations):
    """The one instance of the first image."""
    (instance,) = annotations.images[0].instances
    return instance


def test_pixels_of_voc_count_from_one(tmp_path):
    found = open_annotations(draw_voc(tmp_path, {"a": [("cell", 1, 1, WIDTH, HEIGHT)]}))
    assert only(found).box == (0, 0, WIDTH, HEIGHT)
    assert only(found).area == WIDTH * HEIGHT
    assert found.categories == ("cell",)
    assert not found.problems


def test_a_list_of_voc_names_its_images(tmp_path):
    root = draw_voc(tmp_path, {"a": [("cell", 1, 1, 5, 5)], "b": [("cell", 1, 1, 5, 5)]})
    chosen = root / "ImageSets" / "Main" / "train.txt"
    chosen.write_text("b 1\n")
    assert [image.path.name for image in open_annotations(chosen).images] == ["b.jpg"]


def test_difficult_objects_of_voc_do_not_count(tmp_path):
    found = open_annotations(draw_voc(tmp_path, {"a": [("hard", 1, 1, 5, 5)]}))
    assert only(found).crowd


def test_an_image_without_objects_is_background(tmp_path):
    found = open_annotations(draw_voc(tmp_path, {"a": [("cell", 1, 1, 5, 5)], "b": []}))
    assert [len(image.instances) for image in found.images] == [1, 0]
    assert "1 of 2 images hold no object: background" in found.remarks[0]


BAD_BOXES = {
    "no area": (5, 5, 5, 5),
    "turned round": (9, 9, 5, 5),
    "outside": (WIDTH + 5, 1, WIDTH + 9, 5),
}


@pytest.mark.parametrize("name", BAD_BOXES)
def test_bad_boxes_are_left_out_counted_and_listed(tmp_path, name):
    root = draw_voc(tmp_path, {"a": [("cell", 1, 1, 5, 5), ("cell", *BAD_BOXES[name])]})
    found = open_annotations(root)
    assert only(found).box == (0, 0, 5, 5)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("a.jpg, object 2 (cell): box ")
    assert "1 bad annotations, 50.0% of 2" in found.remarks[0]


def test_a_box_that_reaches_out_is_cut_and_listed(tmp_path):
    found = open_annotations(draw_voc(tmp_path, {"a": [("cell", 1, 1, WIDTH + 9, 5)]}))
    assert only(found).box == (0, 0, WIDTH, 5)
    assert found.problems[0].endswith("cut to it")


def test_categories_of_coco_are_numbered_without_gaps(tmp_path):
    found = open_annotations(draw_coco(tmp_path))
    assert found.categories == ("red", "green")
    assert {each.category for image in found.images for each in image.instances} <= {1, 2}


def test_polygons_of_two_points_are_left_out_and_listed(tmp_path):
    file = changed(draw_coco(tmp_path), lambda c: c["annotations"][0].update(segmentation=[[1, 1, 5, 5]]))
    before, found = open_annotations(draw_coco(tmp_path / "whole")), open_annotations(file)
    assert found.considered == before.considered
    assert sum(len(i.instances) for i in found.images) == sum(len(i.instances) for i in before.images) - 1
    assert "a polygon of 2 points" in found.problems[0]


def test_run_lengths_and_polygons_give_the_same_mask(tmp_path):
    box = (8, 4, 20, 12)
    polygon = [np.array([[8, 4], [28, 4], [28, 16], [8, 16]], dtype=np.float32)]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[4:16, 8:28] = 1
    flat = mask.T.reshape(-1)
    counts = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], flat, [2]])))).tolist()
    runs = {"size": [HEIGHT, WIDTH], "counts": counts}

    def change(content):
        content["annotations"] = [content["annotations"][0] | {"image_id": 1, "bbox": list(box), "segmentation": runs}]

    outline = only(open_annotations(changed(draw_coco(tmp_path), change))).outline
    assert np.array_equal(mask_of(outline, HEIGHT, WIDTH, size=(HEIGHT, WIDTH)), mask)
    assert np.array_equal(mask_of(polygon, HEIGHT, WIDTH, size=(HEIGHT, WIDTH)), mask)
    assert np.array_equal(mask_of(polygon, HEIGHT, WIDTH, size=(HEIGHT // 2, WIDTH // 2)), mask[::2, ::2])


@pytest.mark.parametrize("counts", [[1, 2], [-1, HEIGHT * WIDTH + 1], "x" * 3, None])
def test_run_lengths_of_another_image_are_left_out(tmp_path, counts):
    size = [HEIGHT, WIDTH] if isinstance(counts, list) else [1, 1]
    file = draw_coco(tmp_path)
    changed(file, lambda c: c["annotations"][0].update(segmentation={"size": size, "counts": counts}))
    assert "run lengths" in open_annotations(file).problems[0]


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        open_annotations(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_that_are_not_there_are_counted_in_one_line(tmp_path):
    file = draw_coco(tmp_path)
    (tmp_path / "images" / "0-2.png").unlink()
    assert "names 1 of 6 images that are not in" in refused(file)
    assert "(0-2.png)" in refused(file)


def test_a_file_whose_images_are_elsewhere_asks_for_their_folder(tmp_path):
    file = draw_coco(tmp_path)
    (tmp_path / "images").rename(tmp_path / "photos")
    assert "name the folder of its images" in refused(file)
    assert len(open_annotations(file, images=tmp_path / "photos").images) == 6


REFUSED = {
    "no lists": lambda c: c.pop("images"),
    "no number of a category": lambda c: c["categories"][0].pop("id"),
    "unknown category": lambda c: c["annotations"][0].update(category_id=77),
    "unknown image": lambda c: c["annotations"][0].update(image_id=77),
    "no images": lambda c: c.update(images=[]),
    "no object that can be used": lambda c: [a.update(bbox=[0, 0, 0, 0]) for a in c["annotations"]],
    "an annotation that is no object": lambda c: c["annotations"].append(3),
    "a size of text": lambda c: c["images"][0].update(height="tall"),
    "a category without an object": lambda c: c.update(categories=[3]),
    "skeleton out of range": lambda c: c["categories"][0].update(skeleton=[[1, 9]]),
    "skeleton of numbers": lambda c: c["categories"][0].update(skeleton=[1, 9]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_coco_file_is_refused_in_one_line(tmp_path, name):
    file = changed(draw_coco(tmp_path), REFUSED[name])
    assert str(file) in refused(file)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b'{"images": 3}', b"[" * 100_000])
def test_what_is_no_json_is_refused_in_one_line(tmp_path, content):
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    assert str(file) in refused(file)


def test_what_is_nothing_is_refused(tmp_path):
    assert "is not there" in refused(tmp_path / "nothing.json")
    assert "no VOC folder" in refused(tmp_path)
    root = draw_voc(tmp_path / "voc", {"a": [("cell", 1, 1, 5, 5)]})
    assert "leave it out" in refused(root, images=tmp_path)
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    assert "is no VOC annotation" in refused(root)
    chosen = root / "ImageSets" / "Main" / "train.txt"
    chosen.write_text("gone\n")
    assert "names 1 of 1 annotation files" in refused(chosen)


def test_test_categories_are_matched_by_name(tmp_path):
    train = open_annotations(draw_voc(tmp_path / "a", {"a": [("apple", 1, 1, 5, 5), ("cell", 1, 1, 5, 5)]}))
    test = open_annotations(draw_voc(tmp_path / "b", {"b": [("cell", 1, 1, 5, 5)]}))
    matched, notes = same_categories(train, test)
    assert only(matched).category == 2
    assert matched.categories == train.categories
    assert "1 train categories without a test object (apple)" in notes[0]
    with pytest.raises(DataError, match="1 categories that .* does not know \\(apple\\)"):
        same_categories(test, train)


def test_left_and_right_are_partners(tmp_path):
    skeleton = open_annotations(draw_coco(tmp_path)).skeleton
    assert skeleton is not None
    assert skeleton.mirrored == [0, 2, 1]


def as_version_1(content):
    """LVIS v1 has addresses of COCO's images instead of file names, of both of COCO's splits in one file."""
    for number, image in enumerate(content["images"]):
        split = ("train2017", "val2017")[number % 2]
        image["coco_url"] = f"http://images.cocodataset.org/{split}/{image.pop('file_name')}"


@pytest.mark.parametrize("layout", ["{split}", "images/{split}", ".", "images"])
def test_images_of_lvis_version_1_are_found_by_their_addresses(tmp_path, layout):
    plain = open_annotations(draw_coco(tmp_path))
    file = changed(tmp_path / "instances_train.json", as_version_1)
    for number, image in enumerate(plain.images):
        split = ("train2017", "val2017")[number % 2]
        place = tmp_path / layout.format(split=split) / image.path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        image.path.rename(place)
    found = open_annotations(file)
    assert [image.instances[0].box for image in found.images] == [image.instances[0].box for image in plain.images]
    assert [image.path.name for image in found.images] == [image.path.name for image in plain.images]
    assert all(image.path.is_file() for image in found.images)
    named = open_annotations(file, images=found.images[0].path.parent.parent if "{" in layout else tmp_path / layout)
    assert [image.path for image in named.images] == [image.path for image in found.images]
