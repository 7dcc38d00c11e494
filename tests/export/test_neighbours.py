"""The nearest images are those that a plain search finds, and the picture shows them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import moco
from moco.cli import main
from moco.data.contact_sheet import contact_sheet
from moco.errors import ConfigError, DataError, RunError
from moco.evaluation.nearest import nearest
from moco.normalization import IMAGENET
from tests.export.models import trained, written


@pytest.mark.parametrize("block", [1, 7, 50])
@pytest.mark.parametrize("count", [1, 5, 100])
def test_blocks_do_not_change_who_is_nearest(block, count):
    generator = torch.Generator().manual_seed(0)
    rows, queries = torch.randn(50, 6, generator=generator), torch.randn(3, 6, generator=generator)
    rows[20] = rows[4]
    queries[1] = rows[4]
    blocks = [([str(i) for i in range(s, min(s + block, 50))], rows[s : s + block]) for s in range(0, 50, block)]
    found = nearest(blocks, queries, count=count, leave_out=["none", "4", "7"])
    similarity = torch.nn.functional.cosine_similarity(queries[:, None], rows[None], dim=2)
    for query, without in ((0, None), (1, 4), (2, 7)):
        order = [i for i in similarity[query].argsort(descending=True, stable=True).tolist() if i != without]
        assert [one.name for one in found[query]] == [str(i) for i in order[:count]]
        got = [one.similarity for one in found[query]]
        np.testing.assert_allclose(got, similarity[query][order[:count]], atol=1e-6)
    assert found[1][0].name == "20"


def test_another_width_is_refused():
    with pytest.raises(DataError, match="features of width 3, queries of 4"):
        nearest([(["a"], torch.ones(1, 3))], torch.ones(1, 4), count=1)


def plain_search(run, photos, query, count):
    model = moco.load(run)
    paths = sorted(path for path in photos.rglob("*.jpg") if path != query)
    with torch.inference_mode():
        features = torch.stack([model(model.preprocess(path)[None])[0] for path in paths])
        own = model(model.preprocess(query)[None])
    similarity = torch.nn.functional.cosine_similarity(own, features)
    order = similarity.argsort(descending=True)[:count].tolist()
    return [(paths[i].relative_to(photos).as_posix(), float(similarity[i])) for i in order]


@pytest.mark.parametrize("suffix", [None, ".npz", ".pt", ".parquet"])
def test_an_image_of_the_folder_is_not_its_own_neighbour(run, photos, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    query = next(photos.rglob("07.jpg"))
    options = {"out": tmp_path / "n.png", "count": 4, "quiet": True}
    if suffix is not None:
        features = moco.embed(run, photos, out=tmp_path / f"f{suffix}", quiet=True, device="cpu").path
        options["features"] = features
    result = moco.neighbours(run, photos, query=query, **options)
    expected = plain_search(run, photos, query, 4)
    assert [one.name for one in result.nearest[0]] == [name for name, _ in expected]
    np.testing.assert_allclose([one.similarity for one in result.nearest[0]], [s for _, s in expected], atol=1e-5)
    assert result.queries == (query.relative_to(photos).as_posix(),)


def test_an_image_from_elsewhere_is_nearest_to_its_copy(run, photos, tmp_path):
    query = tmp_path / "elsewhere.jpg"
    query.write_bytes(next(photos.rglob("05.jpg")).read_bytes())
    result = moco.neighbours(run, photos, query=query, out=tmp_path / "n.png", quiet=True)
    assert result.nearest[0][0].name.endswith("05.jpg")
    assert result.nearest[0][0].similarity == pytest.approx(1, abs=1e-5)
    assert len(result.nearest[0]) == 8
    with Image.open(result.path) as picture:
        size = picture.size
    assert size[0] > 9 * 128
    assert 128 < size[1] < 256


def test_runs_loaded_backbones_and_modules_are_taken(run, photos, tmp_path):
    model = moco.load(run)
    options = {"query": next(photos.rglob("07.jpg")), "out": tmp_path / "n.png", "quiet": True, "overwrite": True}
    expected = moco.neighbours(run, photos, **options)
    assert moco.neighbours(moco.Run(run), photos, **options) == expected
    assert moco.neighbours(model, photos, **options) == expected
    assert moco.neighbours(model.backbone, photos, preprocessing=model.preprocess, **options) == expected


def test_queries_are_drawn_from_the_seed(run, photos, tmp_path):
    def drawn(seed):
        out = tmp_path / "n.png"
        return moco.neighbours(run, photos, out=out, seed=seed, overwrite=True, quiet=True).queries

    assert drawn(0) == drawn(0)
    assert len(set(drawn(0))) == 5
    assert drawn(0) != drawn(1)


def test_the_picture_shows_each_image_in_its_place():
    colours = ["red", "lime", "blue", "yellow"]
    images = [Image.new("RGB", (40, 40), colour) for colour in colours]
    sheet = np.asarray(
        contact_sheet([[(images[0], "a"), (images[1], "b" * 90)], [(images[2], "c"), (images[3], "")]], cell=40)
    )
    places = {"red": (20, 20), "lime": (20, 80), "blue": (85, 20), "yellow": (85, 80)}
    for colour, (row, column) in places.items():
        expected = np.asarray(Image.new("RGB", (1, 1), colour))[0, 0]
        assert (sheet[row, column] == expected).all(), colour


def test_features_of_something_else_are_refused(run, photos, tmp_path):
    features = moco.embed(run, photos, out=tmp_path / "f.npz", quiet=True, device="cpu").path
    other = written(tmp_path / "other", trained(seed=9))
    options = {"features": features, "out": tmp_path / "n.png"}
    with pytest.raises(DataError, match="weights"):
        moco.neighbours(other, photos, **options)
    with pytest.raises(DataError, match="preprocessing"):
        moco.neighbours(run, photos, preprocessing=moco.Preprocessing(17, *IMAGENET), **options)
    next(photos.rglob("07.jpg")).unlink()
    with pytest.raises(DataError, match="images"):
        moco.neighbours(run, photos, **options)
    features.write_bytes(features.read_bytes()[:200])
    with pytest.raises(DataError, match="not a file of `moco embed`"):
        moco.neighbours(run, photos, **options)
    assert not (tmp_path / "n.png").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 0}, ConfigError, "count=0"),
        ({"out": "n.gif"}, ConfigError, "n.gif"),
        ({"out": "nowhere/n.png"}, RunError, "nowhere is no folder"),
        ({"query": "nothing.jpg"}, DataError, "nothing.jpg: No such file"),
        ({"features": "nothing.npz"}, DataError, "nothing.npz: no such file"),
    ],
)
def test_bad_input_is_one_line(run, photos, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as raised:
        moco.neighbours(run, photos, **options)
    assert "\n" not in str(raised.value)


def test_the_command_lists_them(run, photos, tmp_path, capsys):
    query, out = next(photos.rglob("01.jpg")), tmp_path / "n.jpg"
    arguments = ["neighbours", str(run), str(photos), "--query", str(query), "--out", str(out), "--count", "3"]
    assert main([*arguments, "--quiet"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert said[-1] == f"picture: {out}"
    assert main([*arguments, "--quiet", "--overwrite", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["queries"]
    assert len(rows[0]["nearest"]) == 3
