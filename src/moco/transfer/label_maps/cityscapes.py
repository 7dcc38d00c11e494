"""The Cityscapes folder: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*_gtFine_labelIds.png and
*_gtFine_instanceIds.png. Ids and names are those of the data set's documentation (Cordts et al., 1604.01685).
"""

from __future__ import annotations

from pathlib import Path

from moco.errors import DataError

# id in labelIds.png -> name of the 19 classes that are scored, in their order; all other ids are void.
CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
LAST_ID = 33
THINGS = {label: name for label, name in CLASSES.items() if label >= 24}  # the 8 classes with instances
SPLITS = {"train": "train", "test": "val"}  # the test split's annotations are not public
_IMAGES, _MAPS = "leftImg8bit", "gtFine"


def is_cityscapes(path: Path) -> bool:
    """Whether this is the data set's folder, or a split in its leftImg8bit or gtFine."""
    return (_root(path) / _IMAGES).is_dir() and (_root(path) / _MAPS).is_dir()


def is_split(path: Path) -> bool:
    """Whether this is a split in the data set's folder, not the folder."""
    return _root(path) != path


def cityscapes_files(path: Path, *, use: str, kind: str) -> list[tuple[Path, Path]]:
    """Images with the files of a kind that belong to them, whether they are there or not, in alphabetical order.

    Args:
        path: the folder, of which "train" uses the split train and "test" val; or a split's folder.
        use: train or test.
        kind: labelIds or instanceIds.

    Raises:
        DataError: no images there.
    """
    root = _root(path)
    split = path.name if path != root else SPLITS[use]
    images = sorted((root / _IMAGES / split).glob(f"*/*_{_IMAGES}.png"))
    if not images:
        folder = root / _IMAGES / split
        raise DataError(f"{folder} holds no CITY/*_{_IMAGES}.png: need the Cityscapes folder, unpacked")
    folder = root / _MAPS / split
    return [(image, folder / image.parent.name / _named_after(image, kind)) for image in images]


def _named_after(image: Path, kind: str) -> str:
    return image.name.replace(f"_{_IMAGES}.png", f"_{_MAPS}_{kind}.png")


def _root(path: Path) -> Path:
    """The folder that holds both."""
    return path.parent.parent if path.parent.name in (_IMAGES, _MAPS) else path
