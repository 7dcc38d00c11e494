"""Label maps: which layouts, which classes; what is left out is counted, what has no meaning is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from moco.errors import DataError
from moco.transfer.label_maps.layouts import CAMVID_CLASSES, VOC_CLASSES
from moco.transfer.label_maps.mean_iou import VOID
from moco.transfer.label_maps.reading import open_label_maps
from tests.transfer.label_folders import stripes, write_annot, write_cityscapes, write_pair, write_voc


def opened(path, use="train", **options):
    return open_label_maps(path, use=use, **options)


def test_voc_takes_its_lists_and_palettes(tmp_path):
    train, test = (
        opened(write_voc(tmp_path / "voc") if use == "train" else tmp_path / "voc", use) for use in ("train", "test")
    )
    assert (train.layout, train.classes, len(train.pairs), len(test.pairs)) == ("VOC", VOC_CLASSES, 2, 1)
    truth = train.truth(0)
    assert (truth[:2] == VOID).all()
    assert np.array_equal(truth[2:], stripes(0)[2:])
    listed = opened(tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt")
    assert listed.pairs == test.pairs


def test_cityscapes_ids_become_its_19_classes_and_all_others_void(tmp_path):
    root = write_cityscapes(tmp_path / "cityscapes")
    train, test = opened(root), opened(root, "test")
    assert (len(train.pairs), len(test.pairs), len(train.classes)) == (2, 1, 19)
    truth = train.truth(0)
    named = {name: train.classes.index(name) for name in ("road", "sky", "car", "person")}
    assert truth[0, 0] == named["sky"]
    assert truth[15, 7] == named["car"]
    assert truth[25, 45] == named["person"]
    assert (truth[30:34] == VOID).all()
    assert (truth[35:] == named["road"]).all()
    assert opened(root / "leftImg8bit" / "val").pairs == opened(root / "gtFine" / "val").pairs == test.pairs


def test_camvid_is_known_by_its_folders_and_sequences(tmp_path):
    maps = opened(write_annot(tmp_path / "train", void=11, prefix="0001TP_"))
    assert (maps.layout, maps.classes, maps.void) == ("CamVid", CAMVID_CLASSES, [11, 255])
    assert (maps.truth(0)[0] == VOID).all()


def test_other_folders_count_their_classes(tmp_path):
    maps = opened(write_annot(tmp_path / "train", void=200), void=200)
    assert (maps.layout, maps.classes, maps.void) == ("annot", ("0", "1", "2"), [200])
    for number in range(2):
        write_pair(
            tmp_path / "set" / "images" / f"{number}.png", tmp_path / "set" / "masks" / f"{number}.png", stripes(number)
        )
    (tmp_path / "set" / "classes.txt").write_text("red\ngreen\nblue\nunseen\n")
    assert opened(tmp_path / "set").classes == ("red", "green", "blue", "unseen")


def test_bad_pairs_are_left_out_counted_and_listed(tmp_path):
    folder = write_annot(tmp_path / "train")
    (tmp_path / "trainannot" / "0.png").unlink()
    Image.fromarray(stripes(0, 20, 20)).save(tmp_path / "trainannot" / "1.png")
    (folder / "2.png").unlink()
    maps = opened(folder)
    assert (len(maps.pairs), len(maps.problems), maps.considered) == (3, 3, 6)
    said = "\n".join(maps.remarks)
    assert "3 pairs left out, 50.0% of 6" in said
    assert "20x20 for an image of 56x40" in said


def test_the_test_has_the_train_classes(tmp_path):
    train = opened(write_annot(tmp_path / "train"), void=255)
    test = opened(write_annot(tmp_path / "test", void=9), "test", void=9)
    assert test.classes == train.classes
    with pytest.raises(DataError, match="values that are no class"):
        opened(tmp_path / "test", "test", like=train)
    with pytest.raises(DataError, match="one layout"):
        opened(write_cityscapes(tmp_path / "c"), "test", like=train)


def all_missing(tmp_path):
    for file in (write_annot(tmp_path / "train").parent / "trainannot").iterdir():
        file.unlink()
    return tmp_path / "train"


def with_map(values):
    def write(tmp_path):
        folder = write_annot(tmp_path / "train")
        for number in range(6):
            Image.fromarray(values).save(tmp_path / "trainannot" / f"{number}.png")
        return folder

    return write


def damaged(tmp_path):
    folder = write_annot(tmp_path / "train")
    file = tmp_path / "trainannot" / "3.png"
    file.write_bytes(file.read_bytes()[:60])
    return folder


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda tmp_path: tmp_path / "nowhere", "not there"),
        (lambda tmp_path: tmp_path, "no layout"),
        (all_missing, "none of 6"),
        (with_map(np.zeros((40, 56, 3), np.uint8)), "mode RGB"),
        (with_map(np.zeros((40, 56), np.uint8)), "1 classes"),
        (with_map(np.where(stripes(0) > 0, 255, 0).astype(np.uint8)), "1 classes"),
        (with_map(stripes(0) * np.uint8(100)), "renumber"),
        (damaged, "3.png"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, write, said):
    with pytest.raises(DataError, match=said) as caught:
        opened(write(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_voc_map_with_an_unknown_value_is_refused_when_it_is_read(tmp_path):
    maps = opened(write_voc(tmp_path / "voc"))
    Image.fromarray(np.full((40, 56), 77, np.uint8)).save(maps.pairs[0][1])
    with pytest.raises(DataError, match="77"):
        maps.truth(0)


def test_a_data_set_that_fixes_its_void_takes_no_other(tmp_path):
    with pytest.raises(DataError, match="leave it out"):
        opened(write_voc(tmp_path / "voc"), void=0)
