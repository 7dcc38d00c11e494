"""Algorithm 1 of He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (CVPR 2020).

N: samples on this rank   C: embedding width   K: keys in the dictionary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from moco.contrast.batchnorm import (
    BatchNormCure,
    batch_length,
    gather_batch,
    has_batchnorm,
    interleave,
    invert,
    resolve_groups,
    select,
    split_batchnorm,
)
from moco.contrast.collective import all_gather_cat, copy_from_first_, rank, shared_permutation, world_size
from moco.contrast.dictionary import Queue
from moco.contrast.loss import info_nce, normalize
from moco.contrast.momentum import ema_update_, frozen_copy

Backward = Callable[[Tensor], Any]


def moco_step(
    model: MoCo, x_q: Any, x_k: Any, optimizer: torch.optim.Optimizer, *, backward: Backward = torch.Tensor.backward
) -> Tensor:
    """One step of Algorithm 1 on two views of the same samples; returns the detached mean loss in nats."""
    q_NC = model.query(x_q)  # f_q, unit norm
    k_NC = model.key(x_k)  # f_k, unit norm, no gradient
    loss = info_nce(q_NC, k_NC, model.queue.keys_KC, temperature=model.temperature)
    optimizer.zero_grad()
    backward(loss)
    optimizer.step()  # f_q learns by gradient
    model.update_key_encoder_()  # f_k follows
    model.queue.enqueue(all_gather_cat(k_NC))  # newest keys in, oldest out
    return loss.detach()


def symmetric_moco_step(
    model: MoCo, x_1: Any, x_2: Any, optimizer: torch.optim.Optimizer, *, backward: Backward = torch.Tensor.backward
) -> Tensor:
    """Both views as query and as key: the two losses are summed, and both views' keys are enqueued once, afterwards.

    Neither view is ever its own negative, because the queue does not change until both losses are known.
    """
    q_1_NC, q_2_NC = model.query(x_1), model.query(x_2)
    k_1_NC, k_2_NC = model.key(x_1), model.key(x_2)
    loss = info_nce(q_1_NC, k_2_NC, model.queue.keys_KC, temperature=model.temperature) + info_nce(
        q_2_NC, k_1_NC, model.queue.keys_KC, temperature=model.temperature
    )
    optimizer.zero_grad()
    backward(loss)
    optimizer.step()
    model.update_key_encoder_()
    # View by view, so that the order in the queue is the same on any number of ranks.
    model.queue.enqueue(torch.cat([all_gather_cat(k_1_NC), all_gather_cat(k_2_NC)]))
    return loss.detach()


class MoCo(nn.Module):
    """Query encoder, key encoder and queue; the state dict has `encoder_q.*`, `encoder_k.*` and `queue.*`.

    Args:
        encoder: any module from a batch (a tensor, or a tuple or dict of tensors) to (N, C) embeddings, head
            included. It becomes `encoder_q`; with a split cure its BatchNorm layers are replaced in place. Where
            there are several ranks, every rank builds the model, and all start from rank 0's.
        dictionary_size: K, keys in the queue, at least 1; need not be a multiple of the batch.
        embedding_dim: C, the encoder's output width.
        key_momentum: m in 0..1, how much of f_k stays at each update.
        temperature: divides the similarities, above 0.
        batchnorm: cure for the BatchNorm leak. "auto": none for an encoder without BatchNorm, "split" on one
            process, "shuffle" on several. "split": groups with their own statistics and a shuffled key batch.
            "shuffle": keys encoded on random other ranks. "average": f_k in inference form with averaged statistics.
            "none": plain BatchNorm, as Algorithm 1 is written.
        split_groups: groups of "split"; None means 8, fewer for batches under 32.

    Raises:
        ValueError: an argument outside its range, or a cure that cannot work here.
        TypeError: an encoder in half precision.

    Source: He et al. 2020 (1911.05722), Chen et al. 2020 (2003.04297).
    """

    _call_q: Callable[[Any], Tensor] | None = None
    _call_k: Callable[[Any], Tensor] | None = None

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dictionary_size: int,
        embedding_dim: int,
        key_momentum: float,
        temperature: float,
        batchnorm: BatchNormCure = "auto",
        split_groups: int | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= key_momentum <= 1.0:
            raise ValueError(f"key_momentum={key_momentum}: need a value from 0 (copy) to 1 (never moves)")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: need a value above 0 (the papers use 0.07 to 0.2)")
        self.batchnorm = _resolve_cure(batchnorm, encoder, split_groups)
        self.split_groups = split_groups
        self.has_batchnorm = has_batchnorm(encoder)
        self.key_momentum, self.temperature, self.embedding_dim = key_momentum, temperature, embedding_dim
        self.encoder_q = split_batchnorm(encoder, split_groups) if self.batchnorm == "split" else encoder
        self.encoder_k = frozen_copy(self.encoder_q)
        self.queue = Queue(dictionary_size, embedding_dim)
        copy_from_first_([*self.parameters(), *self.buffers()])  # ranks may have drawn from different seeds
        self.train(encoder.training)

    def run_encoders_with(self, *, query: Callable[[Any], Tensor], key: Callable[[Any], Tensor]) -> None:
        """Call the encoders through wrappers (autocast, DistributedDataParallel, compilation).

        The wrappers are not registered, so that the state dict stays the same under every strategy. They stay behind
        when the model is copied or pickled, because they would go on calling the encoders of the original.
        """
        self.__dict__.update(_call_q=query, _call_k=key)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_call_q", "_call_k")}

    def query(self, x_q: Any) -> Tensor:
        """q = f_q(x_q), (N, C), unit norm, with gradient."""
        length, device = self._checked_length(x_q)
        encode = self.encoder_q if self._call_q is None else self._call_q
        if self.batchnorm != "split" or not self.training:
            return self._embed(encode, x_q, length)
        order = interleave(length, resolve_groups(self.split_groups, length), device)
        return self._embed(encode, select(x_q, order), length)[invert(order)]

    @torch.no_grad()
    def key(self, x_k: Any) -> Tensor:
        """k = f_k(x_k), (N, C), unit norm, without gradient; the batch is shuffled where the cure says so."""
        length, device = self._checked_length(x_k)
        encode = self.encoder_k if self._call_k is None else self._call_k
        if self.batchnorm == "shuffle":
            return self._shuffled_key(encode, x_k, length, device)
        if self.batchnorm != "split" or not self.training:
            return self._embed(encode, x_k, length)
        order = torch.randperm(length).to(device)
        return self._embed(encode, select(x_k, order), length)[invert(order)]

    def _shuffled_key(self, encode: Callable[[Any], Tensor], x_k: Any, length: int, device: torch.device) -> Tensor:
        """Each rank encodes a random slice of the whole batch, so that a key's BatchNorm company is not its query's."""
        mine = slice(rank() * length, (rank() + 1) * length)
        everyone = gather_batch(x_k)  # first, because it checks that the ranks' batches agree
        order = shared_permutation(length * world_size(), device)
        keys_NC = self._embed(encode, select(everyone, order[mine]), length)
        return all_gather_cat(keys_NC)[invert(order)][mine]

    @torch.no_grad()
    def update_key_encoder_(self) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q; with the "average" cure the BatchNorm statistics follow too."""
        buffers = "averaged" if self.batchnorm == "average" else "own"
        ema_update_(self.encoder_k, self.encoder_q, key_momentum=self.key_momentum, key_buffers=buffers)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> MoCo:
        """Both encoders train or evaluate together, but an averaged f_k always stays in inference form."""
        super().train(mode)
        if self.batchnorm == "average":
            self.encoder_k.eval()
        return self

    def _checked_length(self, batch: Any) -> tuple[int, torch.device]:
        length, device = batch_length(batch)
        if length < 2 and self.training and self.has_batchnorm:
            raise ValueError(f"batch of {length} with BatchNorm: its statistics need at least 2 samples")
        return length, device

    def _embed(self, encode: Callable[[Any], Tensor], batch: Any, length: int) -> Tensor:
        embeddings = encode(batch)
        if embeddings.shape != (length, self.embedding_dim):
            raise ValueError(
                f"the encoder returned {tuple(embeddings.shape)}: expected {(length, self.embedding_dim)} "
                "(one row for each sample, embedding_dim wide)"
            )
        return normalize(embeddings)


def _resolve_cure(cure: BatchNormCure, encoder: nn.Module, split_groups: int | None) -> BatchNormCure:
    if cure not in get_args(BatchNormCure):
        raise ValueError(f"batchnorm={cure!r}: choose one of {', '.join(get_args(BatchNormCure))}")
    if cure == "shuffle" and world_size() == 1:
        raise ValueError("batchnorm='shuffle' needs at least 2 processes, here is 1: choose 'split'")
    if cure == "auto":
        cure = "none" if not has_batchnorm(encoder) else "split" if world_size() == 1 else "shuffle"
    elif cure != "none" and not has_batchnorm(encoder):
        raise ValueError(f"batchnorm={cure!r} for an encoder without BatchNorm layers: choose 'auto' or 'none'")
    if split_groups is not None and (cure != "split" or split_groups < 1):
        raise ValueError(f"split_groups={split_groups} with batchnorm={cure!r}: groups belong to 'split', at least 1")
    return cure
