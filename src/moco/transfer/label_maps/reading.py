"""Label maps: one class or void for each pixel of an image, checked where they are opened.

H, W: height, width   K: classes
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from moco.data.decode import image_shape
from moco.data.open_image import check_size, open_image
from moco.errors import DataError
from moco.transfer.label_maps.layouts import CAMVID_CLASSES, CAMVID_SEQUENCES, CAMVID_VOID, Layout, find_pairs
from moco.transfer.label_maps.mean_iou import VOID

UNKNOWN = -1
FIXED = ("VOC", "Cityscapes")  # layouts that say themselves what each value means
SHOWN = 5  # lines about bad pairs on the terminal; the JSON lists all
_VALUES = 256
_ONE_CHANNEL = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """Images with their label maps.

    Attributes:
        source: as the user named it.
        layout: VOC, Cityscapes, CamVid, annot or folders.
        pairs: image and map files, all there, of one size each.
        classes: K names.
        table: class, `VOID` or `UNKNOWN` for each value 0 to 255 of a file.
        problems: pairs that were left out, one line each.
        considered: pairs that there could be, those left out included.
    """

    source: str
    layout: str
    pairs: tuple[tuple[Path, Path], ...]
    classes: tuple[str, ...]
    table: tuple[int, ...]
    problems: tuple[str, ...] = ()
    considered: int = 0

    def truth(self, index: int) -> np.ndarray:
        """(H, W) uint8: classes in [0, K) and `VOID`.

        Raises:
            DataError: the file cannot be read, or holds a value that is neither.
        """
        _, file = self.pairs[index]
        values = read_values(file)
        known: np.ndarray = np.array(self.table)[np.minimum(values, _VALUES - 1)]
        known[values >= _VALUES] = UNKNOWN
        if (known == UNKNOWN).any():
            raise DataError(_unknown_values([(file, int(values[known == UNKNOWN][0]))], 1, self))
        truth: np.ndarray = known.astype(np.uint8)
        return truth

    @property
    def void(self) -> list[int]:
        """The values that are void."""
        return [value for value, known in enumerate(self.table) if known == VOID]

    @property
    def remarks(self) -> list[str]:
        """What the reader should know before the start."""
        void = self.void
        shown = f"{len(void)} values" if len(void) > SHOWN else " and ".join(map(str, void)) or "none"
        said = [f"{self.source}: {self.layout}, {len(self.pairs)} images, {len(self.classes)} classes, void: {shown}"]
        if self.problems:
            share = len(self.problems) / self.considered
            said.append(f"{self.source}: {len(self.problems)} pairs left out, {share:.1%} of {self.considered}")
            said += [f"  {line}" for line in self.problems[:SHOWN]]
            said += [f"  and {len(self.problems) - SHOWN} more"] if len(self.problems) > SHOWN else []
        return said


def open_label_maps(path: str | Path, *, use: str, void: int | None = None, like: LabelMaps | None = None) -> LabelMaps:
    """Find, check and describe the label maps of a folder or list; the layouts are those of `find_pairs`.

    Pairs whose map is missing or has another size than the image are left out, counted and listed. In layouts that do
    not fix the classes, all maps are read once: K is the largest value + 1, or the lines of classes.txt.

    Args:
        path: folder or list.
        use: "train" or "test".
        void: a value that counts as void, instead of the layout's own (255; 11 in CamVid).
        like: the train maps, whose classes those of the test are.

    Raises:
        DataError: no pair is left, a value that is no class, or fewer than two classes.
    """
    path = Path(path).expanduser()
    if void is not None and not 0 <= void < _VALUES:
        raise DataError(f"void index {void}: expected 0 to {_VALUES - 1}")
    layout = find_pairs(path, use=use)
    if void is not None and layout.name in FIXED:
        raise DataError(f"void index {void} for {path}: {layout.name} fixes which values are void; leave it out")
    kept, problems = _whole_pairs(layout)
    considered = len(layout.pairs) + len(layout.orphans)
    if not kept:
        raise DataError(f"{path}: none of {considered} images has a label map that can be used: {problems[0]}")
    made = LabelMaps(str(path), layout.name, kept, (), (), tuple(problems), considered)
    if like is not None:
        made = _like(made, like)
    elif layout.classes is not None:
        made = _with_classes(made, layout, layout.classes, void)
    else:
        made = _counted_classes(made, layout, void)
    if layout.name not in FIXED:
        _check_values(made)
    return made


def read_values(file: Path) -> np.ndarray:
    """(H, W) int32 of a file of one channel; the indices of a palette, not its colors.

    Raises:
        DataError: it cannot be read, or is of colors.
    """
    try:
        with file.open("rb") as stream, open_image(stream) as image:
            check_size(image)
            if image.mode not in _ONE_CHANNEL:
                wanted = "a PNG of one channel (or a palette) whose values are classes"
                raise DataError(f"label map {file} has mode {image.mode}: expected {wanted}")
            return np.asarray(image).astype(np.int32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"label map {file} cannot be read: {' '.join(str(error).split())}") from error


def _whole_pairs(layout: Layout) -> tuple[tuple[tuple[Path, Path], ...], list[str]]:
    """Pairs of which both are there and of one size, and a line for each of the others."""
    kept, problems = [], [f"{file.name}: no image of this name" for file in layout.orphans]
    for image, file in layout.pairs:
        missing = [each for each in (image, file) if not each.is_file()]
        if missing:
            problems.append(f"{image.name}: {missing[0]} is not there")
            continue
        size, other = image_shape(image), image_shape(file)
        if size != other:
            sizes = f"{other[1]}x{other[0]} for an image of {size[1]}x{size[0]}"
            problems.append(f"{image.name}: its label map is of {sizes}")
            continue
        kept.append((image, file))
    return tuple(kept), problems


def _like(maps: LabelMaps, train: LabelMaps) -> LabelMaps:
    """With the classes of the train maps."""
    if (maps.layout == "Cityscapes") != (train.layout == "Cityscapes"):
        advice = "their values mean different classes; use one layout for both"
        raise DataError(f"{maps.source} is {maps.layout}, {train.source} is {train.layout}: {advice}")
    layout = train.layout if maps.layout == "annot" else maps.layout
    return dataclasses.replace(maps, layout=layout, classes=train.classes, table=train.table)


def _with_classes(maps: LabelMaps, layout: Layout, classes: tuple[str, ...], void: int | None) -> LabelMaps:
    if not 2 <= len(classes) < VOID:
        stated = "classes.txt" if layout.classes else "the label maps"
        least = f"need 2 to {VOID - 1} beside void; --void-index states another void"
        raise DataError(f"{maps.source} has {len(classes)} classes by {stated}: {least}")
    known = layout.values or {value: value for value in range(len(classes))}
    table = [known.get(value, UNKNOWN) for value in range(_VALUES)]
    for value in layout.void if void is None else (void,):
        table[value] = VOID
    return dataclasses.replace(maps, classes=classes, table=tuple(table))


def _counted_classes(maps: LabelMaps, layout: Layout, void: int | None) -> LabelMaps:
    """With the classes that the values tell."""
    found = set().union(*_occurring(maps))
    recorded = all(image.name.startswith(CAMVID_SEQUENCES) for image, _ in maps.pairs)
    if recorded and layout.name == "annot" and void is None and max(found) <= CAMVID_VOID:
        layout = dataclasses.replace(layout, name="CamVid", void=(CAMVID_VOID, 255))
        return _with_classes(dataclasses.replace(maps, layout="CamVid"), layout, CAMVID_CLASSES, None)
    own = found - set(layout.void if void is None else (void,))
    number = max(own, default=-1) + 1
    if number > 2 * len(own):
        shown = ", ".join(map(str, sorted(own)[:SHOWN]))
        raise DataError(
            f"{maps.source}: values {shown}, ... in label maps: expected classes 0, 1, 2, ...; renumber them"
        )
    return _with_classes(maps, layout, tuple(str(label) for label in range(number)), void)


def _check_values(maps: LabelMaps) -> None:
    bad = []
    for (_, file), values in zip(maps.pairs, _occurring(maps), strict=True):
        unknown = [value for value in values if value >= _VALUES or maps.table[value] == UNKNOWN]
        bad += [(file, min(unknown))] if unknown else []
    if bad:
        raise DataError(_unknown_values(bad, len(maps.pairs), maps))


def _occurring(maps: LabelMaps) -> Iterable[set[int]]:
    """The values in each map."""
    counts = (np.bincount(read_values(file).reshape(-1)) for _, file in maps.pairs)
    return (set(np.flatnonzero(count).tolist()) for count in counts)


def _unknown_values(bad: list[tuple[Path, int]], count: int, maps: LabelMaps) -> str:
    file, value = bad[0]
    common = ", ".join(str(value) for value, _ in Counter(value for _, value in bad).most_common(3))
    void = maps.void[0] if maps.void else "none"
    return (
        f"{len(bad)} of {count} label maps hold values that are no class ({common}; first in {file}): expected classes "
        f"0 to {len(maps.classes) - 1} or void {void}; correct the maps, or state --void-index {value}"
    )
