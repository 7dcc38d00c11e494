"""The recipe `curl`: its step beside CURL written out by hand, its windows, resume, refusals, its weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import moco
from moco.config import Config
from moco.contrast import MoCo
from moco.data.augment import Windows
from moco.data.preprocess import Preprocessing, centre_pixels
from moco.encoder import build_backbone, build_encoder
from moco.errors import ArchitectureError, ConfigError
from moco.recipes import configure
from moco.training.schedule import learning_rate
from tests.conftest import StopAt
from tests.test_pretrain import losses, same

SIDE, WINDOW, BATCH = 24, 20, 8
SMALL = {"recipe": "curl", "image_size": WINDOW, "batch_size": BATCH, "steps": 5, "precision": "fp32"}
SMALL |= {"threads": 1, "workers": 0, "log_every": 1, "quiet": True}


def frames(count: int = 32) -> np.ndarray:
    """Stacks of three frames, (N, 9, H, W)."""
    return np.random.default_rng(0).integers(0, 256, (count, 9, SIDE, SIDE), dtype=np.uint8)


class Watch(moco.Callback):
    """Keeps the model as it began and the views of each step."""

    def on_train_start(self, training):
        self.start: MoCo = copy.deepcopy(training.model)
        self.views: tuple[list, list] = ([], [])
        for encoder, seen in zip((training.model.encoder_q, training.model.encoder_k), self.views, strict=True):
            encoder.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].clone()))


def test_steps_are_those_of_curl_written_out(tmp_path):
    """Bilinear logits minus their maximum, Adam, f_k by 0.05 after the first step, the third, the fifth."""
    watch = Watch()
    run = moco.pretrain(frames(), out=tmp_path / "run", callbacks=[watch], **SMALL)
    f_q, f_k = watch.start.encoder_q, watch.start.encoder_k
    weight = watch.start.similarity.bilinear.weight_CC
    assert 0 <= weight.min() < weight.max() <= 1
    adam = torch.optim.Adam([*f_q.parameters(), weight], lr=1e-3 * BATCH / 128)
    for step, (x_q, x_k) in enumerate(zip(*watch.views, strict=True)):
        with torch.no_grad():
            k = f_k(x_k)
        logits = f_q(x_q) @ weight @ k.T
        loss = functional.cross_entropy(logits - logits.max(dim=1, keepdim=True).values, torch.arange(BATCH))
        assert losses(run)[step] == pytest.approx(loss.item(), rel=1e-4)
        adam.zero_grad()
        loss.backward()
        adam.step()
        for key, query in zip(f_k.parameters(), f_q.parameters(), strict=True) if step % 2 == 0 else ():
            key.data = 0.05 * query.data + 0.95 * key.data
    for ours, theirs in ((run.model.encoder_q, f_q), (run.model.encoder_k, f_k), (run.model.similarity, None)):
        expected = {"bilinear.weight_CC": weight} if theirs is None else theirs.state_dict()
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, expected[name].detach(), rtol=1e-3, atol=2e-5)


def test_views_are_windows_of_their_frames_in_0_to_1_and_those_of_a_pair_differ(tmp_path):
    watch, images = Watch(), frames()
    moco.pretrain(images, out=tmp_path / "run", callbacks=[watch], **{**SMALL, "steps": 4})
    places = np.lib.stride_tricks.sliding_window_view(images, (WINDOW, WINDOW), axis=(2, 3))
    corners = places[..., 0, 0].transpose(0, 2, 3, 1)  # of each window of each stack, the first pixel
    seen = []
    for x in map(torch.cat, watch.views):
        found = []
        for view in (255 * x).round().numpy().astype(np.uint8):
            ((image, top, left),) = np.argwhere((corners == view[:, 0, 0]).all(axis=-1))
            assert np.array_equal(view, images[image, :, top : top + WINDOW, left : left + WINDOW])
            found.append((image, top, left))
        seen.append(found)
    assert sorted(image for image, *_ in seen[0]) == list(range(32)), "an epoch"
    assert [image for image, *_ in seen[0]] == [image for image, *_ in seen[1]]
    assert sum(one != two for one, two in zip(*seen, strict=True)) > 25
    assert {top for found in seen for _, top, _ in found} == set(range(SIDE - WINDOW + 1)), "the last place too"


def test_every_place_of_a_window_is_as_likely():
    windows = Windows(5000, size=(3, 2), generator=torch.Generator().manual_seed(0))
    boxes = np.array([windows.box(number, 5, 4) for number in range(5000)])
    assert np.unique(boxes[:, 2:], axis=0).tolist() == [[3, 2]]
    _, counts = np.unique(boxes[:, :2], axis=0, return_counts=True)
    assert len(counts) == 9
    assert np.abs(counts / 5000 - 1 / 9).max() < 0.02
    assert windows.box(0, 9, 1) == (3, 0, 2, 1), "too narrow: the largest centre box of its shape"


@pytest.mark.parametrize("stopped", [2, 3])
def test_resume_is_bitwise_identical_wherever_f_k_is_in_its_turn(tmp_path, stopped):
    np.savez(tmp_path / "frames.npz", images=frames())
    data = tmp_path / "frames.npz"
    whole = moco.pretrain(data, out=tmp_path / "whole", **SMALL)
    part = moco.pretrain(data, out=tmp_path / "part", callbacks=[StopAt(stopped)], **SMALL)
    assert not part.finished
    continued = moco.pretrain(out=tmp_path / "part", resume=True, quiet=True)
    assert same(whole, continued)
    assert losses(whole) == losses(continued)
    one, two = (torch.load(run.path / "checkpoints" / "last.pt", weights_only=True) for run in (whole, continued))
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])


def test_f_k_moves_at_each_so_many_steps_under_any_mechanism_that_has_one(tmp_path, tiny):
    class Moves(moco.Callback):
        def on_train_start(self, training):
            self.seen = [next(training.model.encoder_k.parameters()).clone()]

        def on_step_end(self, training):
            self.seen.append(next(training.model.encoder_k.parameters()).clone())

    images = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    for options in ({}, {"key_momentum_schedule": "cosine"}):
        moves = Moves()
        options = {**tiny, "key_momentum": 0.5, "key_momentum_every": 3, **options}
        moco.pretrain(images, out=tmp_path / f"run{len(options)}", callbacks=[moves], quiet=True, **options)
        moved = [not torch.equal(a, b) for a, b in zip(moves.seen, moves.seen[1:], strict=False)]
        assert moved == [True, False, False, True, False, False]


def test_weights_are_loaded_from_file_and_checkpoint_and_cut_frames_as_they_are(tmp_path):
    np.savez(tmp_path / "frames.npz", images=frames())
    run = moco.pretrain(tmp_path / "frames.npz", out=tmp_path / "run", **SMALL)
    model, stored = moco.load(run.path), moco.load(run.path / "checkpoints" / "last.pt")
    assert model.digest() == stored.digest()
    assert model.preprocess == stored.preprocess == Preprocessing(WINDOW, (0.0,) * 9, (1.0,) * 9, resize=False)
    assert model.feature_dim == 50
    pixels = torch.from_numpy(frames())
    centre = pixels[..., 2:22, 2:22]
    torch.testing.assert_close(model.preprocess(pixels), centre / 255, rtol=0, atol=1e-7)
    with torch.no_grad():
        expected = model(centre / 255).numpy()
    table = moco.embed(run.path, tmp_path / "frames.npz", out=None, quiet=True).table
    np.testing.assert_allclose(table.features, expected, rtol=1e-4, atol=1e-4)


def test_preprocessing_without_resizing_travels_and_covers_what_is_smaller():
    plain = Preprocessing(6, (0.0,) * 3, (1.0,) * 3)
    unscaled = Preprocessing(6, (0.0,) * 3, (1.0,) * 3, resize=False)
    assert Preprocessing.from_dict(unscaled.as_dict()) == unscaled != Preprocessing.from_dict(plain.as_dict()) == plain
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    assert np.array_equal(unscaled.cut(image), image[2:8, 1:7])
    small = image[:5, :4]
    assert np.array_equal(unscaled.cut(small), centre_pixels(small, 6))


def test_photographs_with_classes_are_learnt_from_and_asked_about(photos, tmp_path, tiny):
    """Any network and head; BatchNorm's cure, the monitor, exports that say how images go in."""
    options = {**tiny, "recipe": "v2", "mechanism": "curl", "fixed_crop": True, "batch_size": 4, "log_every": 1}
    del options["dictionary_size"]
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **options)
    assert run.config.temperature == 1.0
    assert run.model.batchnorm == "split"
    assert 0 <= run.summary["knn_top1"] <= 1
    assert all(np.isfinite(losses(run)))
    assert not moco.load(run.path).preprocess.resize
    report = moco.evaluate(run.path, train=photos, protocol="knn", num_neighbors=3, baselines="none", quiet=True)
    assert report.rows
    with pytest.raises(ArchitectureError, match="learnt from images as they are"):
        moco.export_weights(run.path, format="torchvision")
    assert moco.export_weights(run.path, format="safetensors").path.is_file()


def test_the_encoder_is_the_papers():
    built = build_backbone("curl", image_size=84, channels=9)
    assert (built.feature_dim, built.stem) == (50, "standard")
    shapes = [tuple(value.shape) for name, value in built.module.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 9, 3, 3), *[(32, 32, 3, 3)] * 3, (50, 39200), (50,)]
    kernel = built.module.convolutions[2].weight
    assert not kernel[:, :, 0, 0].any()
    torch.testing.assert_close(kernel[:, :, 1, 1] @ kernel[:, :, 1, 1].T, 2 * torch.eye(32), rtol=1e-4, atol=1e-4)
    features = built.module(torch.rand(2, 9, 84, 84))
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(2), rtol=0, atol=1e-5)
    assert build_backbone("curl", image_size=(15, 18), channels=1).feature_dim == 50
    with pytest.raises(ArchitectureError, match="need at least 15 a side"):
        build_backbone("curl", image_size=(14, 18))
    with pytest.raises(ArchitectureError, match="its own first layers"):
        build_backbone("curl", image_size=84, stem="small")
    with pytest.raises(ArchitectureError, match="need embedding_dim=50"):
        build_encoder("curl", image_size=20, embedding_dim=128, head="none")


def test_other_recipes_and_mechanisms_take_from_it_what_they_have():
    config = configure("curl", {"mechanism": "moco"})
    assert (config.dictionary_size, config.temperature, config.key_momentum) == (65536, 0.2, 0.95)
    assert configure("v1", {"mechanism": "curl"}).temperature == 1.0
    assert configure("v2", {"mechanism": "curl", "temperature": 0.5}).temperature == 0.5
    ends = configure("curl", {"mechanism": "end-to-end"})
    assert (ends.key_momentum, ends.key_momentum_every) == (None, 1)
    v3 = configure("v3", {"mechanism": "curl"})
    assert (v3.head, v3.symmetric, v3.temperature) == ("mlp", False, 1.0)


def test_a_constant_rate_is_one_after_its_warmup():
    config = configure("v2", {"schedule": "constant", "steps": 40, "warmup_steps": 2})
    rates = [learning_rate(config, step, 10) / config.learning_rate for step in range(40)]
    assert rates == [0.5] + [1.0] * 39
    assert configure("curl", {}).learning_rate == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("curl", {"dictionary_size": 256}, "the batch as its dictionary"),
        ("curl", {"dictionary_dtype": "int8"}, "stores no keys"),
        ("curl", {"symmetric": True}, "it belongs to 'moco'"),
        ("curl", {"decoupled": True}, "has the positive among its keys"),
        ("curl", {"batch_size": 1}, "need at least 2"),
        ("curl", {"nearest_positives": 0.5}, "no queue of keys"),
        ("curl", {"patches": True}, "key encoder with its queue"),
        ("curl", {"head": "v3-vit"}, "choose one of linear, mlp, none"),
        ("curl", {"hidden_dim": 32}, "no layer in between"),
        ("curl", {"head_warmup_steps": 3}, "no head is there to learn"),
        ("curl", {"crop_min": 0.3}, "without fixed_crop"),
        ("curl", {"schedule_unit": "step"}, "a schedule that changes"),
        ("curl", {"lr_decay": 0.5}, "with the step schedule"),
        ("curl", {"sgd_momentum": 0.5}, "with optimizer sgd, lars and muon"),
        ("curl", {"progressive_resolution": "42:0.5"}, "smaller views would show less"),
        ("v2", {"fixed_crop": True, "small_views": 2}, "smaller views would show less"),
        ("v2", {"fixed_crop": True, "rotate_probability": 0.5, "image_size": (64, 96)}, "cannot be turned"),
        ("v2", {"mechanism": "end-to-end", "key_momentum_every": 2}, "no key encoder to move"),
        ("v2", {"mechanism": "memory-bank", "key_momentum_every": 2}, "no key encoder to move"),
        ("v2", {"key_momentum_every": 0}, "need at least 1"),
    ],
)
def test_what_would_change_nothing_or_cannot_work_is_refused(recipe, options, said):
    with pytest.raises(ConfigError, match=said):
        configure(recipe, options)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"image_size": SIDE}, ConfigError, "windows need room to move"),
        ({"image_size": 84}, ConfigError, "image_size=84 with fixed_crop and images of 24x24 px"),
        ({"embedding_dim": 64}, ArchitectureError, "on 50 features"),
        ({"backbone": "resnet_tiny"}, ArchitectureError, "need embedding_dim=128, or another head"),
        ({"activation_checkpointing": True}, ArchitectureError, "no sequence of blocks"),
        ({"freeze_patch_projection": True}, ArchitectureError, "curl"),
        ({"zero_init_residual": True}, ArchitectureError, "curl"),
        ({"batchnorm": "split"}, ConfigError, "has no BatchNorm"),
        ({"transform": lambda image: None, "fixed_crop": True}, ConfigError, "fixed_crop with transform"),
    ],
)
def test_nothing_is_written_where_the_images_or_the_network_do_not_fit(tmp_path, options, kind, said):
    with pytest.raises(kind, match=said):
        moco.pretrain(frames(), out=tmp_path / "run", **{**SMALL, **options})
    assert not (tmp_path / "run").exists()


def test_a_folder_of_images_without_room_for_windows_is_refused(tmp_path):
    for number, side in enumerate([WINDOW] * 5 + [WINDOW + 8] * 3):
        pixels = np.full((side, side, 3), number, dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    size = f"{WINDOW}x{WINDOW} px in the median: windows need room to move"
    with pytest.raises(ConfigError, match=size):
        moco.pretrain(tmp_path / "images", out=tmp_path / "run", **SMALL)


def test_trained_weights_go_on_without_a_head_to_warm_up(tmp_path):
    before = moco.pretrain(frames(), out=tmp_path / "before", **SMALL)
    options = {name: value for name, value in SMALL.items() if name != "image_size"}
    run = moco.pretrain(frames(), out=tmp_path / "run", init=before, **options)
    assert (run.config.backbone, run.config.head_warmup_steps) == ("curl", 0)
    assert run.config.image_size == WINDOW


def test_defaults_are_as_they_were():
    assert (Config().fixed_crop, Config().key_momentum_every, Config().schedule) == (False, 1, "cosine")
