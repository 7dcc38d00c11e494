"""Files that hold anything at all: each is refused in one line, by every command that reads it."""

from __future__ import annotations

import io
import json
import random
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import moco
from moco.cli import main
from moco.config_file import read_config
from moco.errors import DataError, MocoError, RunError

SEEDS = range(60)
VALUES = (None, 3, -1, [], {}, "x", True, float("inf"), [[1]])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("damaged")
    for number in range(12):
        place = folder / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (18, 18), (number * 20, 0, 0)).save(place / f"{number}.png")
    options = {"backbone": "resnet_tiny", "image_size": 16, "batch_size": 4, "dictionary_size": 8, "steps": 2}
    options |= {"num_neighbors": 2, "workers": 0, "recipe": "v2", "quiet": True, "loggers": "csv"}
    return moco.pretrain(folder / "photos", out=folder / "run", **options)


@pytest.fixture
def copied(run, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(run.path, tmp_path / "run")


def mutated(content: bytes, seed: int) -> bytes:
    draw, changed = random.Random(seed), bytearray(content)
    if seed % 3 == 0:
        return bytes(changed[: draw.randrange(len(changed))])
    for _ in range(draw.randrange(1, 6)):
        near = draw.choice((len(changed), min(len(changed), 400)))
        changed[draw.randrange(near)] = draw.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_arbitrary_bytes_are_refused_by_import(tmp_path, run, suffix, capsys):
    old = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(4)}, old, _use_new_zipfile_serialization=False)
    for seed in SEEDS:
        whole = run.weights.read_bytes() if suffix == ".safetensors" else old.getvalue()
        content = random.Random(seed).randbytes(seed * 5) if seed % 2 else mutated(whole, seed)
        (tmp_path / f"file{suffix}").write_bytes(content)
        assert main(["import", str(tmp_path / f"file{suffix}"), "--out", str(tmp_path / "out")]) == 2, seed
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"conv1.weight": torch.zeros(4, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(())},
        {"preprocessing": {"mean": 3, "std": 4}, "image_size": None, "state_dict": {"a": torch.zeros(1)}},
        {"config": {"MODEL.PIXEL_MEAN": ["a"]}, "state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}},
        {"state_dict": {3: torch.zeros(1)}},
        [],
    ],
)
def test_tensors_among_values_of_other_types_are_refused_by_import(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(MocoError):
        moco.import_weights(tmp_path / "file.pth", out=tmp_path / "out")


def test_a_configuration_with_values_of_other_types_is_refused(copied):
    file = copied / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    refused = set()
    for place, name in enumerate(stored):
        file.write_text(yaml.safe_dump({**stored, name: VALUES[place % len(VALUES)]}))
        try:
            read_config(file)
        except RunError:
            refused.add(name)
    assert len(refused) > len(stored) / 2
    for text in ("[", "3", "- a", "a: b", "data: [1]\nrecipe: v2", "[" * 3000, "recipe: [1]\ndata: null"):
        file.write_text(text)
        with pytest.raises(RunError, match="cannot be read"):
            read_config(file)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"path":3}', "x", "[" * 3000, "\xff"])
def test_lists_and_summaries_that_are_something_else_are_refused(copied, text, capsys):
    for number, name in enumerate(("skipped.jsonl", "summary.json", "metrics.jsonl")):
        before = (copied / name).read_bytes() if (copied / name).exists() else b""
        (copied / name).write_bytes(text.encode("latin-1") + b"\n")
        code = main(["pretrain", "--out", str(copied), "--resume", "--quiet", "--steps", str(3 + number)])
        said = capsys.readouterr().err
        assert (code, said.count("\n")) in ((0, 0), (2, 1)), (name, said)
        assert name != "skipped.jsonl" or code == 2
        (copied / name).write_bytes(before)
    (copied / "summary.json").write_bytes(text.encode("latin-1"))
    if text in ("[]", "{}", '{"path":3}'):
        assert not moco.Run(copied).finished
    else:
        with pytest.raises(RunError):
            _ = moco.Run(copied).finished


@pytest.mark.parametrize("name", ["step", "loss_sum", "last", "seconds", "no_better"])
def test_a_checkpoint_with_values_of_other_types_is_refused(copied, name):
    file = copied / "checkpoints" / "last.pt"
    state = torch.load(file, weights_only=True)
    for value in (None, "x", []):
        torch.save({**state, "progression": {**state["progression"], name: value}}, file)
        with pytest.raises(RunError, match=name):
            moco.pretrain(out=copied, resume=True, quiet=True, steps=4)


@pytest.mark.parametrize("name", ["index.bin", "names.bin"])
def test_one_flipped_bit_in_a_packs_tables_is_found_when_it_is_opened(run, tmp_path, name):
    packed = moco.pack(run.path.parent / "photos", out=tmp_path / "pack", quiet=True)
    content = bytearray((packed.path / name).read_bytes())
    for place in range(0, len(content), 7):
        content[place] ^= 4
        (packed.path / name).write_bytes(content)
        with pytest.raises(DataError, match="is damaged: make it again"):
            moco.pretrain(packed.path, out=tmp_path / "run", recipe="v2", quiet=True)
        content[place] ^= 4


def test_what_a_pack_says_of_itself_is_of_the_right_types(run, tmp_path):
    from moco.data.packed import PackedSource

    packed = moco.pack(run.path.parent / "photos", out=tmp_path / "pack", quiet=True)
    stored = json.loads((packed.path / "meta.json").read_text())
    for name in stored.keys() - {"channels", "value_range", "source"}:
        for value in ("x", [[]], -1):
            (packed.path / "meta.json").write_text(json.dumps({**stored, name: value}))
            with pytest.raises(DataError):
                PackedSource(packed.path)
    (packed.path / "meta.json").write_text("[" * 3000)
    with pytest.raises(DataError):
        PackedSource(packed.path)


def odd_tiff() -> bytes:
    """A fax that libtiff reads and complains of."""
    draw, saved = random.Random(1), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).convert("1").save(
        saved, "TIFF", compression="group4"
    )
    content = bytearray(saved.getvalue())
    for _ in range(6):
        content[draw.randrange(20, 300)] ^= 1 << draw.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_libtiff_says_is_counted_once_a_file_and_printed_by_none(run, tmp_path, capfd, workers):
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(odd_tiff())
    Image.new("RGB", (18, 18)).save(tmp_path / "plain.png")
    for _ in range(2):
        moco.embed(run, tmp_path, out=tmp_path / "f.npz", workers=workers, overwrite=True)
        said = capfd.readouterr().err
        assert "3 TIFF files could be read, but libtiff found them damaged or odd" in said
        assert "Decode" not in said
