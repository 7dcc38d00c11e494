"""`moco neighbours` and `moco.neighbours`: what the network takes to be alike, as a picture."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from moco.atomic import replaced
from moco.commands.embed import embed, open_images
from moco.errors import ConfigError, DataError
from moco.fields import LARGEST_SEED, check_number, check_path
from moco.printable import plain_name, printable

TYPE_CHECKING = False  # not typing's, whose imports the command line's parser would run, and so load PyTorch
if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from moco.data.base import Source
    from moco.data.preprocess import Preprocessing
    from moco.data.user_data import Images
    from moco.evaluation.nearest import Neighbour
    from moco.export.load import Pretrained, Weights
    from moco.export.table import Table
else:
    Images = Weights = str  # the command line gives text
    Preprocessing = object

MOST_NEIGHBOURS = 400  # of a row in the picture, which is 134 pixels for each
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
            lines += [printable(query), *(f"  {one.similarity:6.3f}  {printable(one.name)}" for one in found)]
        return "\n".join([*lines, f"picture: {printable(self.path)}"])

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        pairs = zip(self.queries, self.nearest, strict=True)
        rows = [{"query": query, "nearest": [dataclasses.asdict(one) for one in found]} for query, found in pairs]
        return {"path": str(self.path), "queries": rows}


def neighbours(
    run: Weights,
    data: Images,
    *,
    query: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "neighbours.png",
    count: int = 8,
    seed: int = 0,
    overwrite: bool = False,
    allow_factory: bool = False,
    quiet: bool = False,
    preprocessing: Preprocessing | None = None,
) -> Neighbours:
    """Show the images that are nearest to an image, by cosine similarity of features.

    Args:
        run: run folder, a backbone.safetensors file, or a run's checkpoints/last.pt; in Python also a `moco.Run`, what
            `moco.load` gave, or a module (N, 3, H, W) -> (N, D) with its `preprocessing`.
        data: folder of images (nested), .npy or .npz array, or the name of a torchvision data set; in Python whatever
            `moco.pretrain` takes.
        query: an image file; None means five images of DATA, drawn at random with `seed`.
        features: what `moco embed RUN DATA` has written; None means to compute the features now, which are not kept.
        out: picture to write (.png or .jpg).
        count: neighbours of each query.
        seed: decides which images are drawn.
        overwrite: whether OUT may be there already.
        allow_factory: whether a backbone that is a function (package.module:factory) may be called.
        quiet: no progress bar.
        preprocessing: how images go in, for a module; instead of the run's own for the others.
    """
    for name, value in (("out", out), ("query", query), ("features", features)):
        check_path(name, value)
    picture = Path(out).expanduser()
    check_number("count", count, 1, MOST_NEIGHBOURS)
    check_number("seed", seed, 0, LARGEST_SEED)
    if query is not None and seed != 0:
        raise ConfigError(f"seed={seed} with query={os.fspath(query)}: nothing is drawn, leave one of them out")
    import torch

    from moco.evaluation.nearest import nearest
    from moco.export.load import load
    from moco.export.table import check_output

    check_output(picture, (".png", ".jpg", ".jpeg"), overwrite=overwrite)

    model = load(run, preprocessing=preprocessing, allow_factory=allow_factory)
    source = open_images(data, model.preprocess)
    queries = [] if query is None else [_named(Path(query).expanduser(), source, model)]
    if features is None:
        table = embed(model, source, out=None, quiet=quiet).table
    else:
        table = _stored(Path(features).expanduser(), model, source)
    queries = queries or _drawn(table, seed)
    blocks = ((names, torch.tensor(values)) for names, values in table.blocks())
    stacked = torch.stack([one.features for one in queries])
    found = nearest(blocks, stacked, count=count, leave_out=[one.name for one in queries])
    _draw(source, queries, found, picture)
    return Neighbours(picture, tuple(one.name for one in queries), tuple(map(tuple, found)))


@dataclasses.dataclass(frozen=True)
class _Query:
    """An image to compare with: its name, its features (D,), and itself where it is not one of the source's."""

    name: str
    features: Tensor
    image: Image.Image | None = None


def _named(path: Path, source: Source, model: Pretrained) -> _Query:
    import torch

    from moco.data.bit_depth import Depth
    from moco.data.decode import as_image, read_pixels
    from moco.data.folder import FolderSource

    pixels = read_pixels(path, depth=Depth.of(source.value_range), channels=source.channels)
    with torch.inference_mode():
        features = model(model.preprocess(pixels)[None])[0]
    name = str(path)
    if isinstance(source, FolderSource) and path.resolve().is_relative_to(source.root.resolve()):
        name = plain_name(path.resolve().relative_to(source.root.resolve()).as_posix())
    return _Query(name, features, as_image(pixels))


def _drawn(table: Table, seed: int) -> list[_Query]:
    """Some rows of the table, the same for the same seed."""
    import numpy as np
    import torch

    rows = sorted(np.random.default_rng(seed).permutation(len(table.paths))[:ROWS].tolist())
    return [_Query(table.paths[row], torch.tensor(table.features[row])) for row in rows]


def _stored(file: Path, model: Pretrained, source: Source) -> Table:
    """Raise DataError unless the file holds the features of these images from these weights."""
    from moco.export.embeddings import identity_of
    from moco.export.table import read_table

    if not file.is_file():
        raise DataError(f"{file}: no such file; make it with moco embed, or leave out --features")
    table = read_table(file)
    other = [name for name, value in identity_of(model, source).items() if table.about.get(name) != value]
    if other:
        raise DataError(f"{file} holds features of other {' and '.join(other)}: make it again with moco embed")
    return table


def _draw(source: Source, queries: list[_Query], found: list[list[Neighbour]], picture: Path) -> None:
    from moco.data.contact_sheet import contact_sheet
    from moco.data.decode import as_image

    places = {plain_name(source.item_name(index)): index for index in range(len(source))}

    def shown(name: str) -> Image.Image:
        return as_image(source.pixels(places[name]))

    rows = [
        [(query.image or shown(query.name), printable(query.name))]
        + [(shown(one.name), f"{one.similarity:.3f} {printable(one.name)}") for one in row]
        for query, row in zip(queries, found, strict=True)
    ]
    with replaced(picture) as partial:
        contact_sheet(rows).save(partial)
