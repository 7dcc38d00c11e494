"""`moco scenes` and `moco.scenes`: annotated images for transfer that the package draws itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from moco.fields import LARGEST_SEED, check_number, check_path
from moco.printable import printable

_LIMITS = {"train": (1, 1_000_000), "test": (1, 1_000_000), "size": (32, 4096), "seed": (0, LARGEST_SEED // 2 - 1)}


@dataclasses.dataclass(frozen=True)
class Scenes:
    """What was drawn.

    Attributes:
        path: the folder.
        counts: scenes and objects of each KIND/PART.
    """

    path: Path
    counts: dict[str, dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"path": str(self.path), "counts": self.counts}

    def __str__(self) -> str:
        path = printable(self.path)
        lines = [
            f"{path}/{name}: {each['scenes']:,} scenes, {each['objects']:,} objects"
            for name, each in self.counts.items()
        ]
        files = f"--train {path}/objects/instances_train.json --test {path}/objects/instances_test.json"
        return "\n".join(
            [*lines, f"to learn from them: moco transfer detection --backbone RUN {files} --out transfer/scenes"]
        )


def scenes(out: str, *, train: int = 400, test: int = 200, size: int = 64, seed: int = 0) -> Scenes:
    """Draw scenes of the picture book's objects, with annotations for every task of transfer, to try it on.

    Args:
        out: folder to make: objects (ten classes alike often), people (keypoints, parts, surfaces), long-tail (LVIS).
        train: scenes to learn from, of each kind.
        test: scenes to be tested on, of each kind.
        size: pixels a side.
        seed: of all that is drawn; scene i is the same whatever their number.

    Returns:
        the folder and what is in it.

    Raises:
        MocoError: a number out of range, a folder that is there already, or a full disk.
    """
    check_path("out", out)
    given = {"train": train, "test": test, "size": size, "seed": seed}
    for name, limits in _LIMITS.items():
        check_number(name, given[name], *limits)
    from moco.data.picturebook.scene_folder import write_scenes

    path = Path(out).expanduser()
    return Scenes(path, write_scenes(path, **given))
