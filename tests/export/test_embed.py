"""A file of features: each row is the network's answer for the image at its path, whatever happened on the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import moco
from moco.cli import main
from moco.data.folder import FolderSource
from moco.data.folder_lock import locked
from moco.errors import ConfigError, DataError, RunError
from moco.export import table
from moco.export.embeddings import Store
from moco.normalization import IMAGENET
from tests.export.models import trained, written

FORMATS = (".npz", ".pt", ".parquet")


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


class Interrupted(torch.nn.Module):
    """A backbone during whose forward pass Ctrl-C comes, at the batch that `left` counts down to."""

    left, images = -1, 0

    def __init__(self):
        super().__init__()
        self.inner = trained().backbone

    def forward(self, images):
        if len(images) == 2 and not images.any():  # the black images that its width is measured with
            return self.inner(images)
        Interrupted.left -= 1
        if Interrupted.left == -1:
            raise KeyboardInterrupt
        Interrupted.images += len(images)
        return self.inner(images)


def interrupted(photos, out, *, after, **options):
    """Embed with a Ctrl-C after so many batches of 5; -1 for none. Returns how many images were computed."""
    Interrupted.left, Interrupted.images = after, 0
    given = {"preprocessing": moco.Preprocessing(16, *IMAGENET), **options}
    if after >= 0:
        with pytest.raises(KeyboardInterrupt):
            embed(Interrupted(), photos, out, **given)
    else:
        embed(Interrupted(), photos, out, **given)
    return Interrupted.images


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_run_goes_on_and_gives_the_same_file(photos, tmp_path, suffix, after):
    next(photos.rglob("02.jpg")).write_bytes(b"no image")
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    assert interrupted(photos, whole, after=-1) == 23
    done = interrupted(photos, out, after=after)
    assert not out.exists()
    with (tmp_path / f"out{suffix}.parts" / "features.f32").open("ab") as file:
        file.write(b"half a row")  # what a kill may leave
    assert interrupted(photos, out, after=-1) == 23 - done, "nothing that was safe is computed again"
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / f"out{suffix}.parts").exists()


def test_other_features_are_not_mixed_in(run, photos, tmp_path):
    out = tmp_path / "out.npz"
    interrupted(photos, out, after=1)
    other = {"preprocessing": moco.Preprocessing(17, *IMAGENET)}
    for named, changes in (
        ("batch_size", {"batch_size": 6}),
        ("precision", {"precision": "bf16"}),
        ("preprocessing", other),
    ):
        with pytest.raises(RunError, match=named):
            interrupted(photos, out, after=-1, **changes)
    with pytest.raises(RunError, match="weights"):
        embed(written(tmp_path / "other", trained(seed=4)), photos, out)
    next(photos.rglob("05.jpg")).unlink()
    with pytest.raises(RunError, match="images"):
        interrupted(photos, out, after=-1)


def test_two_processes_do_not_write_one_file(run, photos, tmp_path):
    out, parts = tmp_path / "out.npz", tmp_path / "out.npz.parts"
    parts.mkdir()
    with locked(parts, "other"), pytest.raises(RunError, match=r"out\.npz\.parts"):
        embed(run, photos, out)
    assert not out.exists()
    assert embed(run, photos, out).images == 24
    assert not parts.exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_result_is_an_array_with_paths(run, photos, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(table, "BLOCK", 7)
    result = embed(run, photos, tmp_path / f"out{suffix}")
    paths, features, about = read(result.path)
    assert (result.features.shape, result.features.dtype) == ((24, result.feature_dim), np.float32)
    np.testing.assert_array_equal(result.features, features)
    assert result.paths == paths
    assert table.read_table(result.path).about == about
    blocks = list(result.table.blocks())
    assert [len(names) for names, _ in blocks] == [7, 7, 7, 3]
    np.testing.assert_array_equal(np.concatenate([values for _, values in blocks]), features)


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
    assert "3 unreadable images were skipped: see" in str(result)


def test_a_folder_without_a_readable_image_is_one_line(run, photos, tmp_path):
    whole = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    for path in whole:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 24 images"):
        embed(run, photos, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    for path, content in whole.items():
        path.write_bytes(content)
    assert embed(run, photos, tmp_path / "out.npz").images == 24, "repaired, they are looked at again"


def test_the_case_of_a_suffix_does_not_matter(run, photos, tmp_path):
    assert embed(run, photos, tmp_path / "out.NPZ").features.shape[0] == 24


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


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "x.csv"}, ConfigError, "x.csv"),
        ({"batch_size": 0}, ConfigError, "batch_size=0"),
        ({"workers": 0}, ConfigError, "workers=0"),
        ({"device": "cuda:7"}, ConfigError, "device"),
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


def test_a_pack_gives_the_features_of_its_folder(run, photos, tmp_path):
    pack = moco.pack(photos, out=tmp_path / "pack", format="raw", short_side=0, quiet=True)
    folder, packed = (embed(run, data, tmp_path / f"{name}.npz") for name, data in (("f", photos), ("p", pack.path)))
    assert folder.paths == packed.paths
    np.testing.assert_array_equal(folder.features, packed.features)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_call_that_is_killed_between_its_last_two_deeds_is_ended_by_the_next(
    run, photos, tmp_path, monkeypatch, suffix
):
    whole, out = embed(run, photos, tmp_path / f"whole{suffix}").path, tmp_path / f"out{suffix}"

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(run, photos, out)
    assert out.exists()
    with pytest.raises(RunError, match="features of other"):
        embed(run, photos / "cats", out)  # another command's
    assert embed(run, photos, out).images == 24
    assert out.read_bytes() == whole.read_bytes()
    assert not out.with_name(out.name + ".parts").exists()
    with pytest.raises(RunError, match="is there already"):
        embed(run, photos, out)
