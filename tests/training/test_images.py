"""What a run says of its images before it learns from them."""

import dataclasses

import pytest
from PIL import Image

import moco
from moco.recipes import configure
from moco.training.images import open_images

CONFIG = dataclasses.replace(configure("v2", {}), batch_size=2)


@pytest.mark.parametrize(
    ("folders", "proposed"),
    [
        (("train", "val"), "train --test {}/val"),
        (("Training/a", "test/a", "extra"), "Training --test {}/test"),
        (("train", "test", "val"), "train --test {}/val"),
        (("train", "unlabeled"), None),
        (("train",), None),
        (("cats", "dogs"), None),
        (("images/train", "images/val"), None),
    ],
)
def test_a_part_to_test_on_that_is_learnt_from_is_said(tmp_path, folders, proposed):
    root = tmp_path / "set"
    for number, folder in enumerate(folders * 2):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / folder / f"{number}.png")
    remarks = open_images(root, CONFIG).remarks
    assert len(remarks) == (proposed is not None)
    assert proposed is None or remarks[0].endswith(f"moco pretrain {root}/{proposed.format(root)}")


def test_what_is_said_of_the_images_comes_before_the_first_step(photos, tmp_path, tiny, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"{number:02d}.jpg,{number % 2}\n" for number in range(30)))
    moco.pretrain(photos, out=tmp_path / "run", labels=str(labels), **tiny)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{photos}: not read: 1 .txt"
    assert said[1].startswith(f"{labels}: 6 of its 30 rows name no image of photos")
    assert next(at for at, line in enumerate(said) if "24 images" in line or "images from photos" in line) > 1
