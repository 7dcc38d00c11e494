"""Less memory in a run: activation checkpointing may come and go on resume, a smaller dictionary stays."""

from __future__ import annotations

import pytest
import torch

import moco
from moco.errors import ArchitectureError, ConfigError
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
