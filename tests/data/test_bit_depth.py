"""Images of more than 8 bits: every value is read, the range is found, and it travels with the run."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

import moco
from moco.data.bit_depth import Depth, range_of
from moco.data.decode import DamagedImage, read_image, unscaled
from moco.data.image_batches import image_batches
from moco.data.preprocess import Preprocessing
from moco.data.skipped import SkippedFiles
from moco.data.source import open_source
from moco.errors import ConfigError, DataError
from moco.normalization import IMAGENET
from moco.recipes import configure
from moco.training.images import open_images
from tests.data.image_files import deep_png, tiff


def values(channels: int, top: int = 4095, seed: int = 0, side: int = 24) -> np.ndarray:
    """Noise whose largest value is `top` in every channel."""
    drawn = np.random.default_rng(seed).integers(0, top + 1, (side, side + 6, channels)).astype(np.uint16)
    drawn[0, 0] = top
    return drawn


def expected(deep: np.ndarray, top: int) -> np.ndarray:
    """(H, W, 3): the nearest of 256 steps; grey repeated, alpha dropped."""
    kept = deep[..., :3] if deep.shape[-1] >= 3 else deep[..., [0, 0, 0]]
    return np.rint(np.minimum(kept, top) / top * 255)


def folder(path, count=6, top=4095, first=0):
    path.mkdir()
    for number in range(count):
        (path / f"{number}.png").write_bytes(deep_png(values(3, top, first + number)))
    return path


FILES = {
    "grey.png": (deep_png, 1),
    "grey and alpha.png": (deep_png, 2),
    "colour.png": (deep_png, 3),
    "colour and alpha.png": (deep_png, 4),
    "grey.tif": (tiff, 1),
    "grey, big-endian.tif": (lambda v: tiff(v, order=">"), 1),
    "colour.tif": (tiff, 3),
    "colour, big-endian.tif": (lambda v: tiff(v, order=">"), 3),
    "colour, packed.tif": (lambda v: tiff(v, packed=True), 3),
    "colour, packed, big-endian.tif": (lambda v: tiff(v, packed=True, order=">"), 3),
    "colour and alpha.tif": (lambda v: tiff(v, extra=2), 4),
}


@pytest.mark.parametrize("top", [1023, 4095, 16383, 65535])
@pytest.mark.parametrize("name", FILES)
def test_every_value_of_every_kind_of_file_is_read(tmp_path, name, top):
    write, channels = FILES[name]
    deep = values(channels, top)
    (tmp_path / name).write_bytes(write(deep))
    assert unscaled(tmp_path / name).max() == top
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name, depth=Depth(top))), expected(deep, top))


def test_twelve_bits_in_a_tiff_of_twelve_bits(tmp_path):
    deep = values(1)[..., 0][:, :24]
    packed = np.stack([deep[:, ::2] >> 4, (deep[:, ::2] & 15) << 4 | deep[:, 1::2] >> 8, deep[:, 1::2] & 255], axis=-1)
    content = tiff(packed.reshape(24, -1, 1).astype(np.uint8)).replace(
        b"\x02\x01\x03\0\x01\0\0\0\x08", b"\x02\x01\x03\0\x01\0\0\0\x0c"
    )
    (tmp_path / "a.tif").write_bytes(content.replace(b"\0\x01\x03\0\x01\0\0\0\x24", b"\0\x01\x03\0\x01\0\0\0\x18"))
    got = np.asarray(read_image(tmp_path / "a.tif", depth=Depth(4095)))
    np.testing.assert_array_equal(got, expected(deep[..., None], 4095))


def test_colour_in_separate_planes_is_refused_and_not_garbled(tmp_path):
    for packed in (False, True):
        (tmp_path / "a.tif").write_bytes(tiff(values(3), planes=True, packed=packed))
        with pytest.raises(DamagedImage, match="separate planes"):
            read_image(tmp_path / "a.tif")


def test_files_of_8_bits_are_not_decoded_for_their_range(tmp_path):
    Image.fromarray(values(3).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff no image")
    assert [unscaled(tmp_path / name) for name in ("a.png", "b.jpg", "gone.png")] == [None, None, None]


@pytest.mark.parametrize(
    ("largest", "top"), [(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535)]
)
def test_the_range_is_that_of_a_bit_depth(largest, top):
    assert range_of(largest) == top


def test_a_folder_uses_the_whole_range_and_says_so(tmp_path):
    source, _ = open_source(folder(tmp_path / "scans", top=3000))
    assert source.value_range == 4095
    np.testing.assert_array_equal(source.pixels(2), expected(values(3, 3000, 2), 4095))
    assert [line for line in source.remarks if "0 to 4095" in line]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(plain / f"{number}.png")
    assert open_source(plain)[0].value_range is None
    assert not open_source(plain)[0].remarks


def test_a_folder_of_both_kinds_scales_the_deep_ones_alone(tmp_path):
    mixed = folder(tmp_path / "mixed", count=3, top=900)
    plain = values(3, 255).astype(np.uint8)
    for number in range(200):
        Image.fromarray(plain).save(mixed / f"{number:03d}.png")
    (mixed / "zz.png").write_bytes(deep_png(values(3, 3000)))
    source, _ = open_source(mixed)
    tops = {source.item_name(index): int(source.pixels(index).max()) for index in range(len(source))}
    assert (source.value_range, tops["zz.png"], tops["007.png"]) == (4095, round(3000 / 4095 * 255), 255)


@pytest.mark.parametrize("workers", [0, 2])
def test_values_above_the_range_are_clipped_and_counted_once_an_image(tmp_path, workers):
    source = open_source(folder(tmp_path / "scans", top=4095))[0].in_range(1023)
    for _ in range(2):
        batches = image_batches(
            source.subset([1, 3, 5]), lambda x: x, batch_size=2, skipped=SkippedFiles(), workers=workers
        )
        pixels = [row for batch in batches for row in batch.pixels]
    np.testing.assert_array_equal(pixels[0], expected(values(3, 4095, 1), 1023))
    assert source.clipped == 3
    assert "3 images hold values above 1023" in source.closing_line()
    fitting = source.in_range(4095)
    fitting.pixels(0)
    assert (fitting.clipped, fitting.closing_line()) == (0, "")


def test_a_run_stores_its_range_and_embeds_other_folders_by_it(tmp_path, tiny, capsys):
    data = folder(tmp_path / "scans", count=24, top=4095)
    run = moco.pretrain(data, out=tmp_path / "run", **tiny)
    assert "0 to 4095" in capsys.readouterr().err
    assert yaml.safe_load((run.path / "config.yaml").read_text())["value_range"] == 4095
    model = moco.load(run)
    assert model.preprocess.value_range == moco.load(run.path / "checkpoints/last.pt").preprocess.value_range == 4095
    dark, bright = (folder(tmp_path / name, count=2, top=top) for name, top in (("dark", 900), ("bright", 60000)))
    for other, said in ((dark, "0 to 4095"), (bright, "2 images hold values above 4095")):
        found = moco.embed(run, other, out=None, device="cpu", workers=1)
        assert said in capsys.readouterr().err
        alone = [model(model.preprocess(other / f"{number}.png")[None])[0].detach().numpy() for number in range(2)]
        np.testing.assert_allclose(found.features, alone, rtol=1e-4, atol=1e-5)


def test_evaluate_reads_train_and_test_images_by_the_range_of_the_run(tmp_path, tiny, capsys):
    run = moco.pretrain(folder(tmp_path / "scans", count=24, top=4095), out=tmp_path / "run", quiet=True, **tiny)
    for part, top in (("train", 900), ("test", 60000)):
        for name in ("a", "b"):
            (tmp_path / part).mkdir(exist_ok=True)
            folder(tmp_path / part / name, count=4, top=top, first=ord(name))
    given = {"train": tmp_path / "train", "test": tmp_path / "test", "baselines": "none", "device": "cpu"}
    moco.evaluate(run, protocol="knn", num_neighbors=1, **given)
    said = capsys.readouterr().err
    assert said.count("values 0 to 4095 become 0 to 255") == 2
    assert "test: 8 images hold values above 4095" in said
    moco.evaluate(run, protocol="knn", num_neighbors=1, quiet=True, **given)
    assert "values" not in capsys.readouterr().err


def test_a_stated_range_takes_the_place_of_the_one_found(tmp_path, tiny):
    data = folder(tmp_path / "scans", count=24, top=900)
    run = moco.pretrain(data, out=tmp_path / "run", value_range=4095, quiet=True, **tiny)
    assert moco.load(run).preprocess.value_range == 4095
    with pytest.raises(ConfigError, match="value_range"):
        moco.pretrain(data, out=tmp_path / "other", value_range=70000, quiet=True, **tiny)


def test_a_stated_range_that_changes_nothing_is_refused_or_said(tmp_path, capsys):
    """Refused where all images have been looked at."""
    few, many = tmp_path / "few", tmp_path / "many"
    for place, count in ((few, 8), (many, 30)):
        place.mkdir()
        for number in range(count):
            Image.fromarray(values(3, 255, number).astype(np.uint8)).save(place / f"{number}.png")
    config = configure("v2", {"value_range": 4095, "batch_size": 2})
    with pytest.raises(ConfigError, match="value_range=4095 with few, which has 8 bits: leave it out"):
        open_images(few, config)
    said = [line for line in open_images(many, config).remarks if "value_range changes no such image" in line]
    assert said


@pytest.mark.parametrize("stated", [None, 16383])
def test_train_and_test_images_have_the_range_that_is_stated_or_that_of_the_train_images(tmp_path, stated):
    for part, top in (("train", 900), ("test", 60000)):
        (tmp_path / part).mkdir()
        for name in ("a", "b"):
            folder(tmp_path / part / name, top=top)
    options = {"test": str(tmp_path / "test"), "value_range": stated, "batch_size": 2}
    images = open_images(tmp_path / "train", configure("v2", options))
    assert images.source.value_range == images.test.value_range == (stated or 1023)
    np.testing.assert_array_equal(images.test.pixels(1), expected(values(3, 60000, 1), stated or 1023))


def test_a_run_goes_on_with_its_range_though_brighter_files_have_come(tmp_path, tiny):
    data = folder(tmp_path / "scans", count=24, top=900)
    run = moco.pretrain(data, out=tmp_path / "run", quiet=True, **tiny)
    (data / "0.png").write_bytes(deep_png(values(3, 60000)))
    again = moco.pretrain(out=run.path, resume=True, quiet=True)
    assert moco.load(again).preprocess.value_range == 1023


def test_a_pack_keeps_the_range_of_its_folder(tmp_path, tiny):
    data = folder(tmp_path / "scans", count=24, top=900)
    pack = moco.pack(data, out=tmp_path / "pack", format="raw", quiet=True).path
    source, _ = open_source(pack)
    assert source.value_range == 1023
    assert source.item_name(3) == "11.png"
    np.testing.assert_array_equal(source.pixels(3), expected(values(3, 900, 11), 1023))
    run = moco.pretrain(pack, out=tmp_path / "run", quiet=True, **tiny)
    assert moco.load(run).preprocess.value_range == 1023
    with pytest.raises(DataError, match="0 to 1023, expected 0 to 4095"):
        source.in_range(4095)


def test_preprocessing_states_the_range_and_reads_by_it(tmp_path):
    deep = values(3)
    (tmp_path / "a.png").write_bytes(deep_png(deep))
    ranged = Preprocessing(8, *IMAGENET, 4095)
    assert Preprocessing.from_dict(ranged.as_dict()) == ranged
    assert "value_range" not in Preprocessing(8, *IMAGENET).as_dict()
    pixels = Image.fromarray(expected(deep, 4095).astype(np.uint8))
    assert ranged(tmp_path / "a.png").equal(ranged(pixels))
    with pytest.raises(DataError, match="value_range=0"):
        Preprocessing(8, *IMAGENET, 0)


@pytest.mark.parametrize("kind", ["images", "paths", "mixed", "encoded"])
def test_images_and_paths_in_a_list_are_ranged_like_a_folder(tmp_path, kind):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(values(1, 3000, number)[..., 0]).save(path)
    images = [Image.fromarray(values(1, 3000, number)[..., 0]) for number in range(4)]
    encoded = [{"image": {"bytes": path.read_bytes(), "path": None}} for path in paths]
    data = {"images": images, "paths": paths, "mixed": [*images[:2], *paths[2:]], "encoded": encoded}[kind]
    source, _ = open_source(data)
    assert source.value_range == 4095
    np.testing.assert_array_equal(source.pixels(3), expected(values(1, 3000, 3), 4095))
    darker = source.in_range(1023)
    darker.pixels(1)
    assert darker.clipped == 1
    assert open_source([Image.new("RGB", (8, 8))] * 2)[0].value_range is None
