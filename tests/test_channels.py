"""Images of any number of channels go the whole way: pretraining, figures, loading, features, packs, other formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import moco
from moco.cli import main
from moco.data.preprocess import Preprocessing
from moco.errors import ArchitectureError, ConfigError, DataError
from tests.data.image_files import tiff


def scenes(count: int, channels: int, seed: int = 0) -> np.ndarray:
    """(N, 20, 24, C) uint8, where odd images are darker in the last channel, which alone tells them apart."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 20, 24, channels), dtype=np.uint8)
    images[1::2, ..., -1] //= 8
    return images


def classes(path, channels: int = 4, count: int = 12):
    """A folder of TIFF files in two class folders."""
    for number, image in enumerate(scenes(2 * count, channels)):
        folder = path / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.tif").write_bytes(tiff(image, extra=0 if channels > 3 else None))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on 24 images of four channels, with a kNN monitor."""
    data = classes(tmp_path_factory.mktemp("data") / "scenes")
    options = {
        "backbone": "resnet_tiny",
        "image_size": 16,
        "batch_size": 8,
        "steps": 4,
        "dictionary_size": 16,
        "recipe": "v2",
    }
    monitored = {"knn_evaluations": 1, "num_neighbors": 3, "held_out": 0.4, "workers": 0, "accelerator": "cpu"}
    made = moco.pretrain(data, out=tmp_path_factory.mktemp("runs") / "run", quiet=True, **options, **monitored)
    return made, data


def test_a_run_learns_from_the_fourth_band_and_says_what_it_does(tmp_path, tiny, capsys):
    run = moco.pretrain(classes(tmp_path / "scenes"), out=tmp_path / "run", **{**tiny, "knn_evaluations": 0})
    said = capsys.readouterr().err
    assert "views of 4 channels: without saturation, hue, grayscale, which are for RGB" in said
    assert "normalisation of 4 channels" in said
    stored = yaml.safe_load((run.path / "config.yaml").read_text())
    assert stored["channels"] == 4
    assert moco.load(run).backbone.conv1.weight.shape[1] == 4
    mean, std = (np.array(part.split(","), dtype=float) for part in stored["normalization"].split("/"))
    images = scenes(24, 4) / 255
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)), atol=1e-6)


def test_raw_pixels_of_the_band_tell_the_classes_apart(run):
    assert run[0].summary["knn_pixels"] == 1.0


def test_every_way_to_the_weights_gives_the_same_network(run):
    model, last = moco.load(run[0]), moco.load(run[0].path / "checkpoints/last.pt")
    assert model.preprocess == last.preprocess
    assert model.preprocess.channels == model.channels == 4
    assert model.digest() == last.digest()
    image = next(run[1].rglob("*.tif"))
    pixels = scenes(24, 4)[int(image.stem)]
    np.testing.assert_array_equal(model.preprocess(image), model.preprocess(pixels))
    np.testing.assert_array_equal(model.preprocess(image), model.preprocess(torch.from_numpy(pixels).permute(2, 0, 1)))
    with pytest.raises(ConfigError, match="of 4 channels: need as many numbers"):
        moco.load(run[0], preprocessing=Preprocessing(16, (0.5,), (0.5,)))


def test_a_run_of_four_channels_goes_on_bit_by_bit(tmp_path, tiny):
    data = classes(tmp_path / "scenes")
    whole = moco.pretrain(data, out=tmp_path / "whole", quiet=True, **{**tiny, "steps": 4})

    class Stop:
        def on_step_end(self, step, **_):
            if step == 2:
                raise KeyboardInterrupt

    parts = moco.pretrain(data, out=tmp_path / "parts", quiet=True, callbacks=[Stop()], **{**tiny, "steps": 4})
    parts = moco.pretrain(out=tmp_path / "parts", resume=True, quiet=True)
    assert parts.finished
    assert moco.load(parts).digest() == moco.load(whole).digest()
    again = moco.pretrain(data, out=tmp_path / "parts", resume=True, quiet=True, normalization="auto", channels=4)
    assert again.finished


def test_features_neighbours_and_figures_of_four_channels(run, tmp_path):
    trained, data = run
    found = moco.embed(trained, data, out=None, device="cpu", workers=1, quiet=True)
    model, names = moco.load(trained), dict(zip(found.paths, found.features, strict=True))
    with torch.no_grad():
        alone = model(model.preprocess(data / "a/00.tif")[None])[0]
    np.testing.assert_allclose(names["a/00.tif"], alone, rtol=1e-4, atol=1e-5)
    shown = moco.neighbours(trained, data, query=data / "a/00.tif", out=tmp_path / "n.png", count=2, quiet=True)
    with Image.open(shown.path) as sheet:
        assert sheet.mode == "RGB"
    report = moco.evaluate(trained, train=data, num_neighbors=3, held_out=0.4, device="cpu", quiet=True)
    assert report.value("knn_top1", network="pixels", inputs="pixels") == 1.0
    random = moco.evaluate(
        "resnet_tiny", train=data, image_size=16, num_neighbors=3, held_out=0.4, device="cpu", quiet=True
    )
    assert random.value("knn_top1") >= 0
    for protocol in ("linear", "finetune", "scores"):
        options = {"probe": "both", "probe_epochs": 1} if protocol == "linear" else {"epochs": 1}
        given = {} if protocol == "scores" else options
        moco.evaluate(trained, train=data, protocol=protocol, baselines="none", device="cpu", quiet=True, **given)


def test_images_of_other_channels_are_refused(run, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png has 3 channels, expected 4"):
        moco.embed(run[0], tmp_path, out=None, quiet=True)
    with pytest.raises(DataError, match="has 3 channels, expected 4"):
        moco.embed(run[0], np.zeros((3, 20, 20, 3), np.uint8), out=None, quiet=True)


def test_a_raw_pack_keeps_all_channels_and_a_jpeg_one_is_refused(run, tmp_path, tiny):
    with pytest.raises(ConfigError, match="images of 4 channels: choose raw"):
        moco.pack(run[1], out=tmp_path / "jpeg", quiet=True)
    packed = moco.pack(run[1], out=tmp_path / "raw", format="raw", short_side=16, quiet=True)
    assert json.loads((packed.path / "meta.json").read_text())["channels"] == 4
    assert packed.bytes == 24 * 16 * 19 * 4
    assert moco.load(moco.pretrain(packed.path, out=tmp_path / "run", quiet=True, **tiny)).channels == 4
    with pytest.raises(DataError, match="packed with 4 channels, expected 3"):
        moco.pretrain(packed.path, out=tmp_path / "rgb", channels=3, quiet=True, **tiny)


@pytest.mark.parametrize("form", ["torchvision", "timm", "huggingface", "detectron2", "moco"])
def test_formats_for_rgb_refuse_other_channels_in_a_line(run, form):
    with pytest.raises(ArchitectureError, match="for RGB, these weights for images of 4 channels; these fit: safe"):
        moco.export_weights(run[0], format=form)


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_other_formats_take_them(run, form, tmp_path):
    made = moco.export_weights(run[0], format=form, out=tmp_path / f"a.{form}")
    assert made.difference < 1e-4 * made.largest_feature
    if form == "safetensors":
        assert moco.load(made.path).digest() == moco.load(run[0]).digest()


@pytest.mark.parametrize("channels", [1, 5])
def test_arrays_of_any_channels_are_learnt_from_with_a_module_of_the_users(tmp_path, tiny, channels):
    module = torch.nn.Sequential(torch.nn.Conv2d(channels, 8, 3, 2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    run = moco.pretrain(
        scenes(24, channels),
        out=tmp_path / "run",
        quiet=True,
        **{**tiny, "backbone": module},
        channels=channels,
        transform=_halves,
    )
    assert moco.load(run).preprocess.channels == channels


def _halves(image):
    pixels = torch.tensor(np.asarray(image)) if isinstance(image, Image.Image) else image
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    return pixels[..., :16, :16] / 255, pixels[..., -16:, -16:] / 255


def test_a_stated_normalisation_of_other_channels_is_refused(tmp_path, tiny):
    with pytest.raises(ConfigError, match="which has 4 channels: state as many numbers, or auto"):
        moco.pretrain(scenes(24, 4), out=tmp_path / "run", normalization="0.5,0.5/0.2,0.2", quiet=True, **tiny)
    with pytest.raises(ConfigError, match="state as many numbers"):
        moco.pretrain(scenes(24, 4), out=tmp_path / "run", normalization="cifar", quiet=True, **tiny)


def test_ordinary_images_are_normalised_as_ever_and_measured_where_that_is_stated(tmp_path, tiny, capsys):
    images = scenes(24, 3)
    plain = moco.pretrain(images, out=tmp_path / "plain", **tiny)
    assert plain.config.normalization == "imagenet"
    assert "normalisation" not in capsys.readouterr().err
    measured = moco.pretrain(images, out=tmp_path / "measured", quiet=True, normalization="auto", **tiny)
    expected = images.reshape(-1, 3).mean(axis=0) / 255
    np.testing.assert_allclose(moco.load(measured).preprocess.mean, expected, atol=1e-6)


def test_float_images_are_ranged_and_measured(tmp_path, tiny):
    images = np.random.default_rng(0).normal(0, 1, (24, 20, 20, 3)).astype(np.float32)
    run = moco.pretrain(images, out=tmp_path / "run", quiet=True, **tiny)
    stored, preprocess = yaml.safe_load((run.path / "config.yaml").read_text()), moco.load(run).preprocess
    assert stored["value_range"] == list(preprocess.value_range)
    assert preprocess.value_range[0] < -2.5 < 2.5 < preprocess.value_range[1]
    assert preprocess.mean[0] == pytest.approx(0.5, abs=0.1)
    assert preprocess.std[0] == pytest.approx(1 / (preprocess.value_range[1] - preprocess.value_range[0]), abs=0.01)
    assert moco.pretrain(images, out=run.path, resume=True, quiet=True).config.value_range == preprocess.value_range
    found = moco.embed(run, images, out=None, device="cpu", quiet=True, workers=1)
    with torch.no_grad():
        alone = moco.load(run)(preprocess(images[3])[None])[0]
    np.testing.assert_allclose(found.features[3], alone, rtol=1e-4, atol=1e-5)
    stated = moco.pretrain(images, out=tmp_path / "stated", quiet=True, value_range=(-3.0, 3.0), **tiny)
    assert moco.load(stated).preprocess.value_range == (-3.0, 3.0)
    with pytest.raises(ConfigError, match="need 1 to 65535, or"):
        moco.pretrain(images, out=tmp_path / "other", quiet=True, value_range=(3.0, -3.0), **tiny)


def test_the_summary_counts_what_was_not_read_and_what_was_clipped(tmp_path, tiny):
    for number in range(12):
        values = np.full((20, 24, 1), 900 + 100 * (number % 2), dtype=np.uint16)
        (tmp_path / f"{number:02d}.tif").write_bytes(tiff(values))
    for name in ("a.dcm", "b.dcm", "notes"):
        (tmp_path / name).write_text("no image")
    options = {**tiny, "value_range": 950, "steps": 3}
    summary = moco.pretrain(tmp_path, out=tmp_path.parent / "run", quiet=True, **options).summary
    assert (summary["not_read"], summary["clipped"]) == ({"": 1, ".dcm": 2}, 6)
    plain = moco.pretrain(scenes(12, 3), out=tmp_path.parent / "plain", quiet=True, **tiny).summary
    assert (plain["not_read"], plain["clipped"]) == ({}, 0)


def test_the_command_line_takes_channels_ranges_and_turns(tmp_path, capsys):
    images = np.random.default_rng(0).normal(0, 1, (16, 20, 20, 5)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    small = (
        "--recipe v2 --backbone resnet_tiny --image-size 16 --batch-size 4 --steps 2 --dictionary-size 8 --workers 0"
    )
    own = "--channels 5 --value-range=[-2,2] --vertical-flip-probability 0.5 --rotate-probability 0.75"
    command = ["pretrain", str(tmp_path / "images.npy"), "--out", str(tmp_path / "run"), *small.split(), *own.split()]
    assert main(command) == 0
    assert "images of 5 channels" in capsys.readouterr().err
    stored = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (stored["channels"], stored["value_range"]) == (5, [-2.0, 2.0])
    assert (stored["vertical_flip_probability"], stored["rotate_probability"]) == (0.5, 0.75)
    assert main([*command, "--resume"]) == 0
    assert main(["pretrain", "--config", str(tmp_path / "run/config.yaml"), "--out", str(tmp_path / "again")]) == 0


def test_a_run_of_an_earlier_version_goes_on_with_three_channels(tmp_path, tiny):
    images = scenes(12, 4)
    run = moco.pretrain(images, out=tmp_path / "run", quiet=True, channels=3, **tiny)
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("channels: 3\n", ""))
    assert moco.pretrain(images, out=run.path, resume=True, quiet=True).config.channels == 3


def test_a_run_goes_on_from_weights_of_its_channels_and_refuses_others(run, tmp_path, tiny):
    options = {name: value for name, value in tiny.items() if name not in ("backbone", "image_size")}
    further = moco.pretrain(run[1], out=tmp_path / "further", init=run[0], quiet=True, **options)
    assert moco.load(further).preprocess == moco.load(run[0]).preprocess
    grey = moco.pretrain(scenes(12, 1), out=tmp_path / "grey", channels=1, quiet=True, **tiny)
    again = moco.pretrain(scenes(12, 1), out=tmp_path / "again", init=grey, quiet=True, **options)
    assert moco.load(again).channels == 1
    with pytest.raises(DataError, match="has 3 channels, expected 4"):
        moco.pretrain(scenes(12, 3), out=tmp_path / "rgb", init=run[0], quiet=True, **options)
    with pytest.raises(DataError, match="has 4 channels, expected 3"):  # which the weights could inherit
        moco.pretrain(run[1], out=tmp_path / "three", init=run[0], channels=3, quiet=True, **options)


def test_each_channel_is_prepared_as_if_it_were_alone():
    image, mean, std = scenes(1, 4)[0], (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)
    together = Preprocessing(16, mean, std)(image)
    for channel in range(4):
        alone = Preprocessing(16, mean[channel : channel + 1], std[channel : channel + 1])
        assert torch.equal(together[channel], alone(image[..., channel : channel + 1])[0])


def test_a_model_of_one_channel_is_asked_about_grey_images(tmp_path, tiny):
    data = classes(tmp_path / "grey", channels=1)
    grey = moco.pretrain(data, out=tmp_path / "run", channels=1, quiet=True, **tiny)
    report = moco.evaluate(grey, train=data, num_neighbors=3, held_out=0.4, device="cpu", quiet=True)
    assert report.value("knn_top1", network="pixels", inputs="pixels") == 1.0


def test_a_fitted_run_measures_images_of_four_channels(tmp_path, capsys):
    data = classes(tmp_path / "scenes", count=40)
    options = {
        "backbone": "resnet_tiny",
        "image_size": 16,
        "batch_size": 8,
        "steps": 2,
        "num_neighbors": 3,
        "workers": 0,
    }
    run = moco.pretrain(data, out=tmp_path / "run", threads=1, **options)
    assert (run.config.recipe, run.config.channels) == ("auto", 4)
    assert run.summary["predicted_seconds"] > 0
    assert "\nabout " in capsys.readouterr().err
