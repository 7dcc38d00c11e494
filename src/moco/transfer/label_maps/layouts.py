"""Where images and their label maps lie: VOC, Cityscapes, CamVid and plain folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from moco.errors import DataError
from moco.transfer.label_maps.cityscapes import CLASSES as CITYSCAPES
from moco.transfer.label_maps.cityscapes import LAST_ID, cityscapes_files, is_cityscapes

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
)
CAMVID_VOID = len(CAMVID_CLASSES)
CAMVID_SEQUENCES = ("0001TP", "0006R0", "0016E5", "Seq05VD")  # every file's name begins with its sequence
MAP_FOLDERS = ("labels", "masks", "annotations", "label_maps")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_VOC_SPLITS = {"train": "train.txt", "test": "val.txt"}
_EXPECTED = (
    "need a VOC folder or a list in its ImageSets/Segmentation, a Cityscapes folder, a folder NAME of images with its "
    f"maps in NAMEannot beside it, or a folder with images/ and one of {'/, '.join(MAP_FOLDERS)}/"
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Pairs of files, and what the layout says of the values in the maps.

    Attributes:
        name: of the layout.
        pairs: images and maps, which may be missing.
        orphans: maps without an image.
        classes: names by class; None where the maps must tell.
        values: value in a map -> class; None: the value is the class.
        void: values that count as void, beside those that the user states.
    """

    name: str
    pairs: list[tuple[Path, Path]]
    orphans: tuple[Path, ...] = ()
    classes: tuple[str, ...] | None = None
    values: dict[int, int] | None = None
    void: tuple[int, ...] = (255,)


def find_pairs(path: Path, *, use: str) -> Layout:
    """The images and label maps of a folder or a list.

    Args:
        path: what the user named.
        use: "train" or "test": of a whole VOC or Cityscapes folder the split train or val.

    Raises:
        DataError: no layout that is known, or nothing in it.
    """
    if not path.exists():
        raise DataError(f"{path} is not there: {_EXPECTED}")
    if is_cityscapes(path):
        pairs = cityscapes_files(path, use=use, kind="labelIds")
        values = {label: place for place, label in enumerate(CITYSCAPES)}
        void = (*(label for label in range(LAST_ID + 1) if label not in CITYSCAPES), 255)
        return Layout("Cityscapes", pairs, (), tuple(CITYSCAPES.values()), values, void)
    if path.suffix == ".txt" or (path / "SegmentationClass").is_dir():
        return _voc(path, use)
    beside = path.parent / f"{path.name}annot"
    if beside.is_dir():
        return _folders("annot", path, beside)
    for name in MAP_FOLDERS:
        if (path / "images").is_dir() and (path / name).is_dir():
            return _folders("folders", path / "images", path / name)
    raise DataError(f"{path} is no layout of label maps that is known: {_EXPECTED}")


def _voc(path: Path, use: str) -> Layout:
    root = path.parent.parent.parent if path.suffix == ".txt" else path
    file = path if path.suffix == ".txt" else root / "ImageSets" / "Segmentation" / _VOC_SPLITS[use]
    if not file.is_file() or not (root / "SegmentationClass").is_dir():
        raise DataError(f"{file} is no list of a VOC folder with SegmentationClass/: {_EXPECTED}")
    names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file} names no image: need one name a line")
    pairs = [(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]
    return Layout("VOC", pairs, classes=VOC_CLASSES)


def _folders(name: str, images: Path, maps: Path) -> Layout:
    """Images and maps of the same name but for the suffix."""
    found = sorted(file for file in images.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise DataError(f"{images} holds no images: need files with label maps of the same name in {maps}")
    stems = {file.stem for file in found}
    orphans = tuple(file for file in sorted(maps.iterdir()) if file.suffix == ".png" and file.stem not in stems)
    names = _class_names(images) or _class_names(maps)
    return Layout(name, [(image, maps / f"{image.stem}.png") for image in found], orphans, names)


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """Of classes.txt beside the folder or in it, one a line; None where there is none."""
    for file in (folder.parent / "classes.txt", folder / "classes.txt"):
        if file.is_file():
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            return tuple(line for line in lines if line)
    return None
