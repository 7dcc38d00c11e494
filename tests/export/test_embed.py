"""A file of features: each row is the network's answer for the image at its path, whatever happened on the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import moco
from moco.cli import main
from moco.commands import embed as command
from moco.data.folder import FolderSource
from moco.data.stream import fixed_batches
from moco.errors import ConfigError, DataError, RunError
from moco.export import embeddings, table
from tests.export.models import trained, written

FORMATS = (".npz", ".pt", ".parquet")


@pytest.fixture
def run(tmp_path):
    return written(tmp_path / "run", trained())


def read(path):
    """Paths, features and what travels with them, with the format's own library alone."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return archive["paths"].tolist(), archive["features"], json.loads(str(archive["about"]))
    if path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        return content["paths"], content["features"].numpy(), content["about"]
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(path)
    features = np.stack(columns["features"].to_pylist()).astype(np.float32)
    return columns["path"].to_pylist(), features, json.loads(columns.schema.metadata[b"moco"])


def embed(run, data, out, **options):
    if out.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    return moco.embed(run, data, out=out, **{"batch_size": 5, "device": "cpu", "quiet": True, "workers": 2, **options})


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_row_is_the_answer_for_the_image_at_its_path(run, photos, tmp_path, suffix):
    result = embed(run, photos, tmp_path / f"out{suffix}")
    paths, features, about = read(result.path)
    model = moco.load(run)
    assert paths == [FolderSource(photos).item_name(index) for index in range(24)]
    with torch.inference_mode():
        expected = torch.stack([model(model.preprocess(photos / path)[None])[0] for path in paths])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert (result.images, result.feature_dim, result.skipped) == (24, model.feature_dim, 0)
    assert about["architecture"] == "resnet_tiny"
    assert about["preprocessing"] == model.preprocess.as_dict()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["run", "photos", f"out{suffix}"])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kill_after", [0, 1, 3])
def test_a_killed_run_goes_on_and_gives_the_same_file(run, photos, tmp_path, monkeypatch, suffix, kill_after):
    next(photos.rglob("02.jpg")).write_bytes(b"no image")
    whole = embed(run, photos, tmp_path / f"whole{suffix}")
    monkeypatch.setattr(embeddings, "COMMIT_SECONDS", 0.0)
    batches_seen, computed = [], embeddings.feature_batches

    def dying(*arguments, **options):
        for number, batch in enumerate(computed(*arguments, **options)):
            if number == kill_after:
                raise KeyboardInterrupt
            batches_seen.append(batch[0])
            yield batch

    monkeypatch.setattr(embeddings, "feature_batches", dying)
    out = tmp_path / f"out{suffix}"
    with pytest.raises(KeyboardInterrupt):
        embed(run, photos, out)
    assert not out.exists()
    with (tmp_path / f"out{suffix}.parts" / "features.f32").open("ab") as file:
        file.write(b"half a row")  # what a kill may leave
    monkeypatch.setattr(embeddings, "feature_batches", computed)
    firsts = []

    def noted(*arguments, **options):
        firsts.append(options["first"])
        return fixed_batches(*arguments, **options)

    monkeypatch.setattr("moco.data.stream.fixed_batches", noted)
    embed(run, photos, out)
    assert firsts == [5 * kill_after], "nothing that was safe is computed again"
    assert out.read_bytes() == whole.path.read_bytes()
    assert not (tmp_path / f"out{suffix}.parts").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_many_blocks_are_one_table(run, photos, tmp_path, monkeypatch, suffix):
    whole = embed(run, photos, tmp_path / f"whole{suffix}")
    monkeypatch.setattr(table, "BLOCK", 7)
    parts = embed(run, photos, tmp_path / f"parts{suffix}")
    assert read(parts.path)[0] == read(whole.path)[0]
    np.testing.assert_array_equal(read(parts.path)[1], read(whole.path)[1])
    about, blocks = table.read_table(parts.path)
    blocks = list(blocks)
    assert about == read(whole.path)[2]
    assert len(blocks) == 4
    assert [name for names, _ in blocks for name in names] == read(whole.path)[0]
    np.testing.assert_array_equal(np.concatenate([values for _, values in blocks]), read(whole.path)[1])


def test_damaged_images_are_counted_and_listed(run, photos, tmp_path):
    damaged = sorted(path for path in photos.rglob("*.jpg") if path.stem in ("03", "11", "12"))
    for path in damaged:
        path.write_bytes(path.read_bytes()[:40])
    result = embed(run, photos, tmp_path / "out.npz")
    paths, features, _ = read(result.path)
    assert (result.images, result.skipped, len(features)) == (21, 3, 21)
    names = [path.relative_to(photos).as_posix() for path in damaged]
    assert not set(names) & set(paths)
    listed = [json.loads(line) for line in (tmp_path / "out.npz.skipped.jsonl").read_text().splitlines()]
    assert [line["path"] for line in listed] == sorted(names)
    assert "3 damaged images were skipped: see" in str(result)


def test_a_folder_without_a_readable_image_is_one_line(run, photos, tmp_path):
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 24 images can be read"):
        embed(run, photos, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_one_image_is_a_folder_too(run, photos, tmp_path):
    assert embed(run, photos / "cats" / "roll0", tmp_path / "a.npz").images == 4
    for path in sorted((photos / "cats" / "roll0").iterdir())[1:]:
        path.unlink()
    assert embed(run, photos / "cats" / "roll0", tmp_path / "b.npz").images == 1


def test_an_array_is_embedded_too(run, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    result = embed(run, tmp_path / "images.npy", tmp_path / "out.npz")
    paths, features, _ = read(result.path)
    assert paths[3] == "images.npy[3]"
    model = moco.load(run)
    pixels = model.preprocess.normalize(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(features, model(pixels).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_names_of_any_bytes_and_alphabets_are_kept(run, photos, tmp_path):
    image = next(photos.rglob("*.jpg")).read_bytes()
    folder = tmp_path / "names"
    folder.mkdir()
    for name in ("ärger.jpg", "写真.jpg", "a b.jpg"):
        (folder / name).write_bytes(image)
    with open(bytes(folder) + b"/\xff.jpg", "wb") as file:
        file.write(image)
    expected = ["a b.jpg", "ärger.jpg", "写真.jpg", "\\xff.jpg"]
    for suffix in FORMATS:
        assert read(embed(run, folder, tmp_path / f"out{suffix}").path)[0] == expected


def test_other_features_are_not_mixed_in(run, photos, tmp_path, monkeypatch):
    def dying(*arguments, **options):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(embeddings, "COMMIT_SECONDS", 0.0)
    computed = embeddings.feature_batches

    def one(*arguments, **options):
        yield next(computed(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(embeddings, "feature_batches", one)
    with pytest.raises(KeyboardInterrupt):
        embed(run, photos, tmp_path / "out.npz")
    monkeypatch.setattr(embeddings, "feature_batches", computed)
    for changes, what in (({"batch_size": 6}, "batch_size"), ({"precision": "bf16"}, "precision")):
        with pytest.raises(RunError, match=f"features of other {what}: delete it"):
            embed(run, photos, tmp_path / "out.npz", **changes)
    other = written(tmp_path / "other", trained(seed=4))
    with pytest.raises(RunError, match="features of other weights"):
        embed(other, photos, tmp_path / "out.npz")
    next(photos.rglob("05.jpg")).unlink()
    with pytest.raises(RunError, match="features of other images"):
        embed(run, photos, tmp_path / "out.npz")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "x.csv"}, ConfigError, r"need a name that ends in .npz, .parquet, .pt"),
        ({"batch_size": 0}, ConfigError, "batch_size=0"),
        ({"workers": 0}, ConfigError, "workers=0"),
        ({"device": "cuda:7"}, ConfigError, "device='cuda:7' is not there"),
        ({"out": "nowhere/x.npz"}, RunError, "nowhere is no folder"),
        ({"data": "nothing"}, DataError, "nothing: no such folder or file"),
        ({"run": "nothing"}, RunError, "nothing: no such file or folder"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(run, photos, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = {"run": run, "data": photos, "out": "x.npz", "device": "cpu", **options}
    with pytest.raises(error, match=message) as raised:
        moco.embed(given.pop("run"), given.pop("data"), quiet=True, **given)
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_is_not_replaced_unasked(run, photos, tmp_path):
    (tmp_path / "out.npz").write_text("dear to me")
    with pytest.raises(RunError, match="is there already"):
        embed(run, photos, tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_text() == "dear to me"
    assert embed(run, photos, tmp_path / "out.npz", overwrite=True).images == 24


def test_a_network_that_has_diverged_is_refused(photos, tmp_path):
    model = trained()
    with torch.no_grad():
        model.backbone.conv1.weight[0] = float("nan")
    with pytest.raises(RunError, match="NaN"):
        embed(written(tmp_path / "bad", model), photos, tmp_path / "out.npz")


def test_the_command_prints_what_it_made(run, photos, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert main(["embed", str(run), str(photos), "--out", str(out), "--device", "cpu", "--quiet", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["path"], said["images"], said["feature_dim"]) == (str(out), 24, 128)
    assert main(["embed", str(run), str(photos), "--out", str(out), "--overwrite", "--quiet"]) == 0
    assert "24 images, 128 features each" in capsys.readouterr().out
    assert main(["embed", str(run), str(photos), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_mixed_precision_stays_near(run, photos, tmp_path):
    full, mixed = (embed(run, photos, tmp_path / f"{p}.npz", precision=p).path for p in ("fp32", "bf16"))
    a, b = read(full)[1], read(mixed)[1]
    assert a.dtype == b.dtype == np.float32
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.05 * np.abs(a).max())


def test_waiting_is_measured():
    import time

    def slow():
        for _ in range(3):
            time.sleep(0.02)
            yield 1

    waiting = command.Waiting(slow())
    assert list(waiting) == [1, 1, 1]
    assert 0.06 <= waiting.seconds < 1
