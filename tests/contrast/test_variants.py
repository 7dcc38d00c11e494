"""Laws of small views, patches and nearest positives. N: samples   V: queries of a sample   C: embedding width"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from moco.contrast import MoCo, MoCoVariant, moco_loss, symmetric_moco_loss, variant_loss, variant_step
from moco.contrast.variants import PAIRS, nearest_rows
from tests.contrast.test_algorithm_laws import WIDTH, normalizing, plain, values
from tests.reference.variants import naive_loss, naive_nearest, naive_patch_queries

SHARED: dict[str, Any] = {"dictionary_size": 11, "embedding_dim": WIDTH, "key_momentum": 0.9, "temperature": 0.2}
SYMMETRIC = pytest.mark.parametrize("symmetric", [False, True])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def sgd(model: MoCo) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.query_side.parameters(), lr=0.05)


class Images(nn.Module):
    """From images to embeddings, of any size."""

    def __init__(self, *, normalizing: bool = False) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(4) if normalizing else nn.Identity()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        embeddings: Tensor = self.head(self.backbone(x))
        return embeddings


@SYMMETRIC
@pytest.mark.parametrize("batchnorm", ["none", "split", "average"])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_without_any_variant_it_is_the_plain_loss_to_the_bit(symmetric: bool, batchnorm: Any, dtype: Any) -> None:
    options: dict[str, Any] = {**SHARED, "batchnorm": batchnorm, "dictionary_dtype": dtype}
    x_1, x_2, found = torch.randn(8, 6), torch.randn(8, 6), []
    for kind in (MoCo, MoCoVariant):
        torch.manual_seed(3)
        model = kind(normalizing(), **options)
        if isinstance(model, MoCoVariant):
            found.append(variant_loss(model, x_1, x_2, symmetric=symmetric))
        else:
            found.append((symmetric_moco_loss if symmetric else moco_loss)(model, x_1, x_2))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_nearest_key_is_found_in_any_blocks(dtype: Any, chunk: int) -> None:
    model = MoCoVariant(plain(), **SHARED, dictionary_dtype=dtype)
    k = functional.normalize(torch.randn(9, WIDTH), dim=1)
    assert nearest_rows(k, model.queue.keys, chunk_size=chunk).tolist() == naive_nearest(
        k, model.queue.keys.to(k.dtype)
    )


@SYMMETRIC
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_loss_with_nearest_positives_is_the_twins(symmetric: bool, share: float) -> None:
    model, x_1, x_2 = MoCoVariant(plain(), **SHARED), torch.randn(8, 6), torch.randn(8, 6)
    model.nearest_share = share
    torch.manual_seed(5)
    loss, _, keys = variant_loss(model, x_1, x_2, symmetric=symmetric)
    torch.manual_seed(5)
    expected, stored = torch.zeros(()), model.queue.keys_KC
    for x_q, x_k in ((x_1, x_2), (x_2, x_1)) if symmetric else ((x_1, x_2),):
        nearest = (torch.rand(8) < share).tolist()
        expected = expected + naive_loss([model.query(x_q)], model.key(x_k), stored, 0.2, nearest)
    torch.testing.assert_close(loss, expected)
    own = model.key(x_2) if not symmetric else torch.cat([model.key(x_1), model.key(x_2)])
    torch.testing.assert_close(keys, own)  # what is enqueued stays the sample's own key


@SYMMETRIC
def test_small_views_are_further_queries_of_each_key(symmetric: bool) -> None:
    model = MoCoVariant(Images(), **SHARED)
    x_1, x_2, small = torch.randn(5, 3, 8, 8), torch.randn(5, 3, 8, 8), torch.randn(10, 3, 4, 4)
    loss = variant_loss(model, x_1, x_2, small, symmetric=symmetric).loss
    extra = [model.query(small[:5]), model.query(small[5:])]
    expected = naive_loss([model.query(x_1), *extra], model.key(x_2), model.queue.keys_KC, 0.2, [False] * 5)
    if symmetric:
        expected += naive_loss([model.query(x_2), *extra], model.key(x_1), model.queue.keys_KC, 0.2, [False] * 5)
    torch.testing.assert_close(loss, expected)


@SYMMETRIC
def test_pairs_of_patches_are_the_queries(symmetric: bool) -> None:
    encoder = Images()
    model = MoCoVariant(encoder, **SHARED, patches=True)
    x_1, x_2 = torch.randn(5, 3, 8, 12), torch.randn(5, 3, 8, 12)
    loss = variant_loss(model, x_1, x_2, symmetric=symmetric).loss
    expected = torch.zeros(())
    for x_q, x_k in ((x_1, x_2), (x_2, x_1)) if symmetric else ((x_1, x_2),):
        queries = naive_patch_queries(encoder.backbone, encoder.head, x_q)
        assert len(queries) == len(PAIRS) == 6
        expected = expected + naive_loss(queries, model.key(x_k), model.queue.keys_KC, 0.2, [False] * 5)
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, list(encoder.parameters()))
    torch.testing.assert_close(ours, torch.autograd.grad(expected, list(encoder.parameters())))


def test_patches_of_a_sample_share_a_group_of_a_split_batchnorm() -> None:
    """A query depends on the samples of its own group alone."""
    model = MoCoVariant(Images(normalizing=True), **SHARED, patches=True, batchnorm="split", split_groups=2)
    x = torch.randn(8, 3, 8, 8)
    other = x.clone()
    other[1] += 1.0  # of the group of the odd samples
    before, after = (model.queries(each).unflatten(0, (6, 8)) for each in (x, other))
    torch.testing.assert_close(before[:, ::2], after[:, ::2], rtol=0, atol=0)
    assert (before[:, 1::2] != after[:, 1::2]).any(dim=2).all()


@pytest.mark.parametrize("options", [{"patches": True}, {"nearest": 1.0}, {"small": True}])
@SYMMETRIC
def test_a_step_moves_both_encoders_and_the_queue(options: dict[str, Any], symmetric: bool) -> None:
    model = MoCoVariant(Images(normalizing=True), **SHARED, patches=options.get("patches", False), batchnorm="split")
    model.nearest_share = options.get("nearest", 0.0)
    before = values(model)
    small = torch.randn(8, 3, 4, 4) if options.get("small") else None
    views = torch.randn(2, 4, 3, 8, 8)
    loss, accuracy = variant_step(model, *views, sgd(model), small=small, symmetric=symmetric)
    assert loss.isfinite()
    assert 0 <= accuracy <= 1
    after = values(model)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[n], after[n]) for n in before if n.endswith("weight") or n.startswith("queue."))
    assert int(after["queue.pointer"]) == (8 if symmetric else 4)


def test_state_is_that_of_moco() -> None:
    assert (
        MoCoVariant(Images(), **SHARED, patches=True).state_dict().keys()
        == MoCo(Images(), **SHARED).state_dict().keys()
    )


def test_patches_need_a_backbone_and_a_head() -> None:
    with pytest.raises(TypeError, match="needs the parts backbone and head"):
        MoCoVariant(plain(), **SHARED, patches=True)
