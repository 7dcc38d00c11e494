"""`moco neighbours` and `moco.neighbours`: what the network takes to be alike, as a picture."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.commands.embed import embed, names_digest, open_images
from moco.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from moco.data.source import Source
    from moco.evaluation.nearest import Neighbour
    from moco.export.load import Pretrained

ROWS = 5  # queries drawn where none is named


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Queries with their nearest images.

    Attributes:
        path: the picture: a row for each query, itself first, then its neighbours from the nearest on.
        queries: names of the queries.
        nearest: for each query, its neighbours with their cosine similarity.
    """

    path: Path
    queries: tuple[str, ...]
    nearest: tuple[tuple[Neighbour, ...], ...]

    def __str__(self) -> str:
        lines = []
        for query, found in zip(self.queries, self.nearest, strict=True):
            lines.append(query)
            lines += [f"  {neighbour.similarity:6.3f}  {neighbour.name}" for neighbour in found]
        return "\n".join([*lines, f"picture: {self.path}"])

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        pairs = zip(self.queries, self.nearest, strict=True)
        rows = [{"query": query, "nearest": [dataclasses.asdict(one) for one in found]} for query, found in pairs]
        return {"path": str(self.path), "queries": rows}


def neighbours(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    query: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "neighbours.png",
    count: int = 8,
    seed: int = 0,
    overwrite: bool = False,
    allow_factory: bool = False,
    quiet: bool = False,
) -> Neighbours:
    """Show the images of a folder that are nearest to an image, by cosine similarity of features.

    Args:
        run: run folder, a backbone.safetensors file, or a run's checkpoints/last.pt.
        data: folder of images (nested), .npy or .npz array, or the name of a torchvision data set.
        query: an image file; None means five images of DATA, drawn at random with `seed`.
        features: what `moco embed RUN DATA` has written; None means to compute the features now, which are not kept.
        out: picture to write (.png or .jpg).
        count: neighbours of each query.
        seed: decides which images are drawn.
        overwrite: whether OUT may be there already.
        allow_factory: whether a backbone that is a function (package.module:factory) may be called.
        quiet: no progress bar.
    """
    picture = Path(out).expanduser()
    _check(picture, count, overwrite)
    from moco.export.load import load

    model, source = load(run, allow_factory=allow_factory), open_images(data)
    asked = [] if query is None else [_named(query, source, model)]
    with _table(features, run, data, source, allow_factory=allow_factory, quiet=quiet) as file:
        asked = asked or _drawn(file, seed)
        found = _search(file, asked, count)
    _draw(source, asked, found, picture)
    return Neighbours(picture, tuple(query.name for query in asked), tuple(map(tuple, found)))


@contextlib.contextmanager
def _table(features: Any, run: Any, data: Any, source: Source, **options: Any) -> Iterator[Path]:
    """The file of features that was named, or one that is computed now and goes away afterwards."""
    if features is not None:
        file = Path(features).expanduser()
        _check_features(file, run, source)
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="moco-") as folder:
        yield embed(run, data, out=Path(folder) / "features.npz", **options).path


@dataclasses.dataclass(frozen=True)
class _Query:
    """An image to compare with: its name, its features (D,), and itself where it is not one of the source's."""

    name: str
    features: Tensor
    image: Image.Image | None = None


def _named(query: str | os.PathLike[str], source: Source, model: Pretrained) -> _Query:
    import torch

    from moco.data.decode import read_image
    from moco.data.folder import FolderSource
    from moco.export.table import plain_name

    path = Path(query).expanduser()
    image = read_image(path, min_side=model.preprocess.size)
    with torch.inference_mode():
        features = model(model.preprocess(image)[None])[0]
    name = str(path)
    if isinstance(source, FolderSource) and path.resolve().is_relative_to(source.root.resolve()):
        name = plain_name(path.resolve().relative_to(source.root.resolve()).as_posix())
    return _Query(name, features, image)


def _drawn(file: Path, seed: int) -> list[_Query]:
    """Some rows of the table, the same for the same seed."""
    import numpy as np

    rows = sum(len(names) for names, _ in _blocks(file))
    chosen = set(np.random.default_rng(seed).permutation(rows)[:ROWS].tolist())
    asked, start = [], 0
    for names, values in _blocks(file):
        asked += [
            _Query(names[row - start], values[row - start]) for row in sorted(chosen) if 0 <= row - start < len(names)
        ]
        start += len(names)
    return asked


def _blocks(file: Path) -> Iterator[tuple[list[str], Tensor]]:
    import torch

    from moco.export.table import read_table

    for names, values in read_table(file)[1]:
        yield names, torch.from_numpy(values.copy())


def _search(file: Path, asked: list[_Query], count: int) -> list[list[Neighbour]]:
    import torch

    from moco.evaluation.nearest import nearest

    stacked = torch.stack([query.features for query in asked])
    return nearest(_blocks(file), stacked, count=count, leave_out=[query.name for query in asked])


def _draw(source: Source, asked: list[_Query], found: list[list[Neighbour]], picture: Path) -> None:
    from moco.data.contact_sheet import contact_sheet
    from moco.export.table import plain_name

    wanted = {one.name for row in found for one in row} | {query.name for query in asked if query.image is None}
    places = {}
    for index in range(len(source)):
        name = plain_name(source.item_name(index))
        if name in wanted:
            places[name] = index
    rows = []
    for query, row in zip(asked, found, strict=True):
        own = query.image or source.image(places[query.name], min_side=128)
        cells = [(source.image(places[one.name], min_side=128), f"{one.similarity:.3f} {one.name}") for one in row]
        rows.append([(own, query.name), *cells])
    try:
        contact_sheet(rows).save(picture)
    except OSError as error:
        raise RunError(f"cannot write {picture}: {error.strerror or error}") from error


def _check(picture: Path, count: int, overwrite: bool) -> None:
    if count < 1:
        raise ConfigError(f"count={count}: need at least 1")
    if picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"{picture}: need a name that ends in .png or .jpg")
    if picture.exists() and not overwrite:
        raise RunError(f"{picture} is there already: choose another --out, or add --overwrite")
    if not picture.parent.is_dir():
        raise RunError(f"{picture.parent} is no folder: make it, or choose another --out")


def _check_features(file: Path, run: str | os.PathLike[str], source: Source) -> None:
    """Raise DataError unless the file holds the features of these images from these weights."""
    from moco.export.load import backbone_file, digest
    from moco.export.table import read_table

    if not file.is_file():
        raise DataError(f"{file}: no such file; make it with moco embed, or leave out --features")
    about = read_table(file)[0]
    if about.get("weights") != digest(backbone_file(run)):
        raise DataError(f"{file} holds features of other weights than {run}: make it again with moco embed")
    if about.get("images") != names_digest(source):
        raise DataError(f"{file} holds features of other images than {source.name}: make it again with moco embed")
