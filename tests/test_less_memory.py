"""Less memory in a run: activation checkpointing and chunks may come and go on resume, a smaller dictionary stays."""

from __future__ import annotations

import pytest
import torch

import moco
from moco.errors import ArchitectureError, ConfigError
from moco.recipes import configure
from moco.training import mechanism
from moco.training.device import make_fabric, place
from moco.training.encoder import build_checked_encoder
from moco.training.mechanism import build_model
from tests.conftest import StopAt


def weights(run) -> dict[str, torch.Tensor]:
    return dict(torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)["model"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_the_same_to_the_bit(photos, tmp_path, tiny, precision):
    options = {**tiny, "steps": 3, "knn_evaluations": 0, "precision": precision, "quiet": True}
    plain = weights(moco.pretrain(photos, out=tmp_path / "plain", **options))
    other = weights(moco.pretrain(photos, out=tmp_path / "other", activation_checkpointing=True, **options))
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_it_may_begin_and_end_on_resume(photos, tmp_path, tiny):
    options = {**tiny, "steps": 4, "knn_evaluations": 0, "quiet": True}
    whole = weights(moco.pretrain(photos, out=tmp_path / "whole", **options))
    moco.pretrain(photos, out=tmp_path / "parts", callbacks=[StopAt(1)], activation_checkpointing=True, **options)
    moco.pretrain(
        out=tmp_path / "parts", resume=True, callbacks=[StopAt(2)], activation_checkpointing=False, quiet=True
    )
    run = moco.pretrain(out=tmp_path / "parts", resume=True, activation_checkpointing=True, quiet=True)
    assert run.config.activation_checkpointing
    parts = weights(run)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_resumed_run_with_a_smaller_dictionary_ends_the_same(photos, tmp_path, tiny, dtype):
    options = {**tiny, "steps": 4, "knn_evaluations": 0, "dictionary_dtype": dtype, "quiet": True}
    run = moco.pretrain(photos, out=tmp_path / "whole", **options)
    whole = weights(run)
    moco.pretrain(photos, out=tmp_path / "parts", callbacks=[StopAt(2)], **options)
    with pytest.raises(ConfigError, match="dictionary_dtype"):
        moco.pretrain(out=tmp_path / "parts", resume=True, dictionary_dtype="fp32", quiet=True)
    parts = weights(moco.pretrain(out=tmp_path / "parts", resume=True, quiet=True))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert torch.equal(run.model.queue.keys_KC, whole["queue.keys_KC"])


def test_a_module_without_blocks_is_refused_and_nothing_is_written(photos, tmp_path, tiny):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(ArchitectureError, match="no sequence of blocks"):
        moco.pretrain(photos, out=tmp_path / "run", **{**tiny, "backbone": module, "activation_checkpointing": True})
    assert not (tmp_path / "run").exists()


MECHANISMS = {
    "queue": {"symmetric": True, "activation_checkpointing": True},
    "end-to-end": {"mechanism": "end-to-end", "dictionary_size": None},
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_chunks_learn_what_the_whole_batch_teaches(photos, tmp_path, tiny, mechanism):
    """Of a network without BatchNorm."""
    options = {**tiny, **MECHANISMS[mechanism], "backbone": "v3/vit_tiny_patch8", "base_learning_rate": 1.0}
    options |= {"steps": 3, "knn_evaluations": 0, "precision": "fp32", "batch_size": 6, "quiet": True}
    plain = weights(moco.pretrain(photos, out=tmp_path / "plain", **options))
    chunked = weights(moco.pretrain(photos, out=tmp_path / "chunks", chunk_size=4, **options))
    torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-5)
    assert not all(torch.equal(chunked[name], plain[name]) for name in plain), "other sums, rounded differently"


@pytest.mark.parametrize("recipe", ["v2", "v3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_in_chunks_that_is_resumed_is_the_same_to_the_bit(photos, tmp_path, tiny, recipe, precision):
    options = {**tiny, "recipe": recipe, "steps": 4, "knn_evaluations": 0, "precision": precision, "quiet": True}
    if recipe == "v3":
        options |= {"dictionary_size": None, "hidden_dim": 16}
    whole = weights(moco.pretrain(photos, out=tmp_path / "whole", chunk_size=2, **options))
    moco.pretrain(photos, out=tmp_path / "parts", chunk_size=2, callbacks=[StopAt(2)], **options)
    parts = weights(moco.pretrain(out=tmp_path / "parts", resume=True, activation_checkpointing=True, quiet=True))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_chunks_may_begin_on_resume_and_are_said(photos, tmp_path, tiny, capsys):
    options = {**tiny, "steps": 4, "knn_evaluations": 0}
    moco.pretrain(photos, out=tmp_path / "run", callbacks=[StopAt(2)], quiet=True, **options)
    run = moco.pretrain(out=tmp_path / "run", resume=True, chunk_size=3)
    assert run.config.chunk_size == 3
    assert run.finished
    said = "its 4 samples in 2 chunks, and those with a gradient twice (gradient caching), BatchNorm has"
    assert said in capsys.readouterr().err


def test_the_keys_of_v3_are_encoded_in_other_company(tiny):
    config = configure("v3", {**{k: v for k, v in tiny.items() if k != "dictionary_size"}, "chunk_size": 2})
    fabric = make_fabric(config)
    model = build_model(build_checked_encoder(config), config, images=24)
    place(model, fabric, config)
    seen = []
    for encoder in (model.encoder_q, model.encoder_k):
        encoder.register_forward_pre_hook(lambda _module, args: seen.append(set(args[0][:, 0, 0, 0].int().tolist())))
    views = torch.arange(4.0)[:, None, None, None] + torch.zeros(4, 3, 16, 16)
    companies = set()
    for seed in range(8):
        seen.clear()
        torch.manual_seed(seed)
        model.query(views)
        model.key(views)
        assert seen[:2] == [{0, 1}, {2, 3}]
        companies.add(tuple(sorted(map(tuple, map(sorted, seen[2:])))))
    assert len(companies) == 3, "every way to pair four samples"


@pytest.mark.parametrize("small_views", [0, 30])
def test_small_views_count_before_a_run_begins(small_views, monkeypatch):
    config = configure("v2", {"batch_size": 64, "image_size": 64, "dictionary_size": 16, "small_views": small_views})
    two, small = (4 * 3 * 64 * count * side**2 for count, side in ((2, 64), (30, 24)))
    monkeypatch.setattr(mechanism, "memory_bytes", lambda device: two + small / 2)
    if not small_views:
        mechanism.check_memory(config, torch.device("cpu"), images=100)
        return
    with pytest.raises(ConfigError, match="batch_size=64 at image_size=64 with small_views=30: "):
        mechanism.check_memory(config, torch.device("cpu"), images=100)
