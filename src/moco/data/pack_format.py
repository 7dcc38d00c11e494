"""What a pack is made of: the files, the rows of its table, and what `meta.json` says.

A pack is a folder. `meta.json` says what it is, `data.bin` holds one record after another, `index.bin` one row of
`ROW` for each, `names.bin` the characters of their names, `damaged.jsonl` the files that could not be read. A pack
under construction is called NAME.partial.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from moco.atomic import write_text
from moco.data.bands import RGB
from moco.data.bit_depth import ValueRange
from moco.data.fingerprint import Fingerprint
from moco.errors import ConfigError, DataError

KIND, VERSION = "moco-pack", 1
META, DATA, INDEX, NAMES, DAMAGED = "meta.json", "data.bin", "index.bin", "names.bin", "damaged.jsonl"
PARTIAL = ".partial"
LONGEST_SIDE = 65535  # pixels; no JPEG file has a longer one
ROW = np.dtype(
    [
        ("end", "<i8"),  # of the record in data.bin; it starts where the one before ends
        ("name_end", "<i8"),  # of the name in names.bin
        ("position", "<i8"),  # of the file in the listing of the source
        ("height", "<i4"),  # of the decoded image, upright
        ("width", "<i4"),
        ("label", "<i4"),  # number of the class, -1 for unknown
        ("crc32", "<u4"),  # of the record
    ]
)


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """How images are stored.

    Raises:
        ConfigError: a value outside its range.
    """

    format: str = "jpeg"  # files as a decoder reads them, or raw: H * W * C bytes
    short_side: int = 256  # longest allowed shorter side in pixels, larger images are reduced to it; 0 for any
    quality: int = 95  # of the JPEG files that are made, 1 to 100

    def __post_init__(self) -> None:
        if self.format not in ("jpeg", "raw"):
            raise ConfigError(f"format={self.format!r}: choose one of jpeg, raw")
        if not 0 <= self.short_side <= LONGEST_SIDE:
            need = f"a length of at most {LONGEST_SIDE} pixels, or 0 to keep every size"
            raise ConfigError(f"short_side={self.short_side}: need {need}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality={self.quality}: need a JPEG quality from 1 to 100")
        if self.format == "raw" and self.quality != PackOptions.quality:
            raise ConfigError(f"quality={self.quality} with format='raw', which compresses nothing: leave it out")

    def arguments(self) -> str:
        """As on the command line; what is left at its default is left out."""
        given = dataclasses.asdict(self).items()
        changed = [(name, value) for name, value in given if value != getattr(PackOptions, name)]
        return "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed)


@dataclasses.dataclass(frozen=True)
class Meta:
    """The content of meta.json."""

    options: PackOptions
    class_names: tuple[str, ...]  # of labels 0, 1, ...
    source: str | None  # absolute path of the folder; None once the pack is detached from it
    fingerprint: Fingerprint  # of that folder
    images: int = 0
    damaged: int = 0  # images that could not be read
    data_bytes: int = 0  # size of data.bin
    name_bytes: int = 0  # size of names.bin
    tables_crc32: int = 0  # of index.bin and names.bin, one after the other
    shape: tuple[int, int] | None = None  # height and width where all images have one size
    complete: bool = False  # not while the pack is being written
    value_range: ValueRange | None = None  # what became 255, or 0 and 255, in images of floats or more than 8 bits
    channels: int = RGB

    def write(self, folder: Path) -> None:
        """Replace meta.json whole."""
        text = json.dumps({"kind": KIND, "version": VERSION, **dataclasses.asdict(self)}, indent=1)
        write_text(folder / META, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Meta:
        """What meta.json says.

        Raises:
            DataError: it is not readable, or from another version.
        """
        try:
            stored = json.loads((folder / META).read_text(encoding="utf-8"))
            kind, version = stored.pop("kind"), stored.pop("version")
            if (kind, version) != (KIND, VERSION):
                source = stored.get("source") or "DIR"
                raise DataError(
                    f"{folder}: a pack of version {version}, readable here is version {VERSION}: make it again with "
                    f"moco pack {source} --out {folder} --replace"
                )
            stored["options"] = PackOptions(**stored["options"])
            stored["fingerprint"] = Fingerprint(**stored["fingerprint"])
            if not isinstance(stored["class_names"], list):
                raise TypeError(f"class_names is {stored['class_names']!r}")
            stored["class_names"] = tuple(stored["class_names"])
            if isinstance(stored.get("value_range"), list):
                stored["value_range"] = tuple(stored["value_range"])
            stored["shape"] = None if stored["shape"] is None else tuple(stored["shape"])
            _check_types(stored)
            return cls(**stored)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{folder / META} cannot be read ({' '.join(str(error).split())}): make the pack again with "
                f"moco pack DIR --out {folder} --replace"
            ) from error

    def check_same(self, folder: Path) -> None:
        """Refuse what lies in `folder` if it was made, or begun, for another pack than this one.

        Raises:
            DataError: other images or other options.
        """
        there = Meta.read(folder)
        made_alike = (there.options, there.channels) == (self.options, self.channels)
        if not made_alike or not there.fingerprint.same_files(self.fingerprint):
            raise DataError(
                f"{folder}: a pack of other images or with other options ({there.source}{there.options.arguments()}): "
                "add --replace to make it anew, or choose another --out"
            )

    def repair(self, folder: Path) -> str:
        """What to do where the pack cannot be used."""
        return f"make it again with moco pack {self.source or 'DIR'} --out {folder}{self.options.arguments()} --replace"


def _check_types(stored: dict[str, Any]) -> None:
    """Raise TypeError where a number, a text or a list of meta.json is something else."""
    numbers = [field.name for field in dataclasses.fields(Meta) if field.type == "int"]
    shape, ranged = stored["shape"], stored.get("value_range")
    wrong = [name for name in numbers if type(stored.get(name, 0)) is not int or stored.get(name, 0) < 0]
    wrong += ["shape"] * (shape is not None and [type(side) for side in shape] != [int, int])
    wrong += ["source"] * (not isinstance(stored["source"], str | None))
    wrong += ["class_names"] * (not all(isinstance(name, str) for name in stored["class_names"]))
    wrong += ["complete"] * (type(stored.get("complete", False)) is not bool)
    pair = ranged if isinstance(ranged, tuple) else (ranged,) * 2
    wrong += ["value_range"] * (len(pair) != 2 or not all(isinstance(end, int | float | None) for end in pair))
    if wrong:
        raise TypeError(f"{wrong[0]} is {stored.get(wrong[0])!r}")


def is_pack(path: Path) -> bool:
    """Whether this folder says of itself that it is a pack, whole or not."""
    try:
        with (path / META).open(encoding="utf-8") as file:
            return f'"kind": "{KIND}"' in file.read(100)
    except (OSError, UnicodeDecodeError):
        return False
