"""Activation checkpointing: a block keeps its input alone, and the backward pass computes the rest anew (1604.06174).

Less memory for more time; the numbers stay. One way for all networks: timm's own (`set_grad_checkpointing`) counts a
batch twice in BatchNorm's running statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moco.errors import ArchitectureError

_SEQUENCES = (nn.Sequential, nn.ModuleList)  # of these types themselves: subclasses are layers with a purpose
_REMEDY = "leave activation_checkpointing out, or take a smaller batch"


def recomputable_blocks(module: nn.Module, name: str) -> list[nn.Module]:
    """The blocks that a network is a sequence of: residual blocks, transformer blocks, or whole stages.

    These are modules with layers in them that stand in an `nn.Sequential` or `nn.ModuleList`, outermost ones, at least
    two of a class. `name`: what messages call the network.

    Raises:
        ArchitectureError: there are none.
    """
    inner = list(_in_sequences(module, inside=type(module) in _SEQUENCES))
    count = Counter(type(block) for block in inner)
    blocks = [block for block in inner if count[type(block)] > 1]
    if not blocks:
        raise ArchitectureError(
            f"activation_checkpointing for {name}, which is no sequence of blocks (two or more modules of a class in "
            f"an nn.Sequential or nn.ModuleList): {_REMEDY}"
        )
    return blocks


def _in_sequences(module: nn.Module, *, inside: bool) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child) in _SEQUENCES:
            yield from _in_sequences(child, inside=True)
        elif inside and next(child.children(), None) is not None:
            yield child
        else:
            yield from _in_sequences(child, inside=False)


def recomputing(call: Callable[[Any], Tensor], blocks: Sequence[nn.Module]) -> Callable[[Any], Tensor]:
    """`call`, during which these blocks keep their inputs alone; nothing stays with them afterwards.

    The backward pass computes a block again with the random numbers, the autocast state and the buffers that it had,
    and what it notes in its buffers then is dropped: BatchNorm's running statistics take a batch once.

    Raises (the function that is returned):
        ArchitectureError: a block changes its input in place, or none of them was called.
    """

    def run(batch: Any) -> Tensor:
        with _replaced_forward(blocks) as called:
            output = call(batch)
        if not called:
            raise ArchitectureError(
                f"activation_checkpointing: no {type(blocks[0]).__name__} was called as a module: {_REMEDY}"
            )
        return output

    return run


@contextmanager
def _replaced_forward(blocks: Sequence[nn.Module]) -> Iterator[set[nn.Module]]:
    """Inside, the blocks run by `_checkpointed`; yields those that have."""
    called: set[nn.Module] = set()
    own = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = partial(_checkpointed, block, block.forward, called)
        yield called
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward


def _checkpointed(
    block: nn.Module, forward: Callable[..., Any], called: set[nn.Module], *args: Any, **options: Any
) -> Any:
    called.add(block)
    if not torch.is_grad_enabled():
        return forward(*args, **options)
    before = _versions(args)
    output = checkpoint(
        forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _own_buffers(block)), **options
    )
    if _versions(args) != before:  # it would be changed twice
        raise ArchitectureError(
            f"activation_checkpointing: {type(block).__name__} changes its input in place, which cannot be computed "
            f"again: {_REMEDY}"
        )
    return output


def _versions(args: tuple[Any, ...]) -> list[int]:
    return [value._version for value in args if isinstance(value, Tensor)]


def _own_buffers(block: nn.Module) -> Any:
    """A context in which the block has copies of its buffers as they are now."""
    buffers = [(layer, name, value) for layer in block.modules() for name, value in layer._buffers.items()]
    copies = [None if value is None else value.clone() for _, _, value in buffers]

    @contextmanager
    def exchanged() -> Iterator[None]:
        present = [layer._buffers[name] for layer, name, _ in buffers]
        try:
            for (layer, name, _), copied in zip(buffers, copies, strict=True):
                layer._buffers[name] = copied
            yield
        finally:
            for (layer, name, _), value in zip(buffers, present, strict=True):
                layer._buffers[name] = value

    return exchanged()
