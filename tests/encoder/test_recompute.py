"""Activation checkpointing changes memory and time, and no number."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.contrast import EndToEnd, MoCo, MoCoV3, end_to_end_step, moco_step, moco_v3_step, symmetric_moco_step
from moco.encoder import build_encoder, recomputable_blocks, recomputing
from moco.errors import ArchitectureError

SIZE = {"embedding_dim": 8, "temperature": 0.2}


def encoder(name: str, head: str = "mlp") -> nn.Module:
    torch.manual_seed(0)
    return build_encoder(name, image_size=16, embedding_dim=8, head=head, hidden_dim=8)


def with_dropout() -> nn.Module:
    """Blocks that draw random numbers, in both of a model's encoders."""
    module = encoder("v3/vit_tiny_patch8")
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.2
    return module


def moco(module: nn.Module, **more: Any) -> MoCo:
    return MoCo(module, dictionary_size=16, key_momentum=0.9, **SIZE, **more)


CASES: dict[str, tuple[Any, Any]] = {
    "split resnet": (lambda: moco(encoder("resnet_tiny")), moco_step),
    "plain resnet, symmetric": (lambda: moco(encoder("resnet_tiny"), batchnorm="none"), symmetric_moco_step),
    "frozen resnet": (lambda: moco(encoder("resnet_tiny"), batchnorm="frozen"), moco_step),
    "vit with dropout": (lambda: moco(with_dropout()), moco_step),
    "end to end, both with gradient": (lambda: EndToEnd(encoder("resnet_tiny"), **SIZE), end_to_end_step),
    "v3": (
        lambda: MoCoV3(encoder("resnet_tiny", "v3-resnet"), nn.Linear(8, 8), key_momentum=0.9, **SIZE),
        moco_v3_step,
    ),
}


def learnt(case: str, *, recomputed: bool, dtype: torch.dtype | None = None, steps: int = 2) -> dict[str, Tensor]:
    """The state after some steps, running statistics and batch counters included."""
    build, step = CASES[case]
    torch.manual_seed(1)
    model = build().train()
    query: Any = model.query_side
    if dtype is not None:
        query = torch.autocast("cpu", dtype)(query)
    if recomputed:
        query = recomputing(query, recomputable_blocks(model.encoder_q.backbone, case))
    model.run_encoders_with(query=query, key=getattr(model, "encoder_k", None))
    optimizer = torch.optim.SGD(model.query_side.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(2)
    for _ in range(steps):
        step(model, torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16), optimizer)
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_statistics_are_the_same_to_the_bit(case):
    kept = learnt(case, recomputed=False)
    assert same(learnt(case, recomputed=True), kept)
    assert not same(learnt(case, recomputed=False, steps=1), kept), "it learns"


@pytest.mark.parametrize("case", ["split resnet", "vit with dropout"])
def test_so_are_they_in_bf16(case):
    kept = learnt(case, recomputed=False, dtype=torch.bfloat16)
    assert same(learnt(case, recomputed=True, dtype=torch.bfloat16), kept)
    assert not same(learnt(case, recomputed=False), kept)


def kept_bytes(query: Any) -> int:
    """What autograd keeps of a forward pass, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        query(torch.randn(8, 3, 32, 32)).sum()
    return sum(value.untyped_storage().nbytes() for value in kept.values())


@pytest.mark.parametrize("name", ["resnet18", "v3/vit_tiny_patch8"])
def test_activations_are_not_kept(name):
    module = build_encoder(name, image_size=32, embedding_dim=8).train()
    weights = sum(value.nbytes for value in module.parameters())
    plain = kept_bytes(module) - weights
    assert kept_bytes(recomputing(module, recomputable_blocks(module.backbone, name))) - weights < 0.5 * plain


def test_a_module_stays_as_it_was():
    module = encoder("resnet_tiny")
    names = [sorted(vars(layer)) for layer in module.modules()]
    call = recomputing(module, recomputable_blocks(module.backbone, "it"))
    call(torch.randn(4, 3, 16, 16)).sum().backward()
    with pytest.raises(RuntimeError):
        call(torch.randn(4, 1, 16, 16))
    assert [sorted(vars(layer)) for layer in module.modules()] == names
    copy.deepcopy(module)
    pickle.dumps(module)


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("resnet_tiny", "BasicBlock", 4),
        ("resnet50", "Bottleneck", 16),
        ("vit_b_32", "EncoderBlock", 12),
        ("timm/vit_tiny_patch16_224", "Block", 12),
        ("timm/resnet18", "BasicBlock", 8),
        ("convnext_tiny", "CNBlock", 18),
    ],
)
def test_the_blocks_of_known_networks(name, kind, count):
    with torch.device("meta"):
        module = build(name)
    assert [type(block).__name__ for block in recomputable_blocks(module, name)] == [kind] * count


def build(name: str) -> nn.Module:
    if name.startswith("timm/"):
        import timm

        model: nn.Module = timm.create_model(name.removeprefix("timm/"), pretrained=False)
        return model
    if name == "resnet_tiny":
        return encoder(name).backbone
    import torchvision

    return torchvision.models.get_model(name, weights=None)


class Block(nn.Module):
    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.layer, self.in_place = nn.Linear(4, 4), in_place

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.add_(1.0) if self.in_place else x).tanh()


class Aside(nn.Module):
    """Has blocks, and does not call them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0].layer(x)


def test_blocks_of_the_users_own_are_found():
    blocks = [Block(), Block(), Block()]
    assert recomputable_blocks(nn.Sequential(nn.Linear(4, 4), *blocks), "mine") == blocks


@pytest.mark.parametrize(
    "module", [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Sequential(Block())]
)
def test_a_network_without_blocks_is_refused(module):
    with pytest.raises(ArchitectureError, match=r"for mine, which is no sequence of blocks .*: leave"):
        recomputable_blocks(module, "mine")


def test_blocks_that_are_not_called_are_refused():
    with pytest.raises(ArchitectureError, match="no Block was called"):
        recomputing(Aside(), recomputable_blocks(Aside(), "it"))(torch.randn(2, 4))


def test_a_block_that_changes_its_input_is_refused():
    module = nn.Sequential(nn.Linear(4, 4), Block(in_place=True), Block(in_place=True))
    with pytest.raises(ArchitectureError, match="Block changes its input in place"):
        recomputing(module, recomputable_blocks(module, "it"))(torch.randn(2, 4))
