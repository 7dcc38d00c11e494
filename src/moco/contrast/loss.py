"""InfoNCE, streaming over the dictionary: never the N x K logits, neither forward nor backward.

Over a fixed dictionary the loss is attention with keys = values = dictionary: the log-sum-exp is its denominator, and
the attention output is the gradient for the query. Both are accumulated in one pass over chunks of the dictionary.

N: samples   K: keys in the dictionary   C: embedding width
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moco.contrast.collective import all_gather_cat, rank
from moco.contrast.negatives import Excluded, JoinedKeys, Keys
from moco.contrast.stored_keys import ScaledKeys

# Dictionary keys in one block: N=256 queries make a block of logits of 4 MiB, which stays in a CPU's cache.
DEFAULT_CHUNK = 4096
# Queries in one block: bounds a block's memory for batches of any size; smaller batches are one tile.
TILE_ROWS = 1024


def info_nce(
    q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor | ScaledKeys, *, temperature: float, chunk_size: int = DEFAULT_CHUNK
) -> Tensor:
    """Mean contrastive loss in nats, eq. (1) of He et al. 2020: positive k_i, negatives all K dictionary keys.

    Equal to cross-entropy of `contrastive_logits` with label 0; log(1 + K) when all logits are equal. Computed in
    float32 (float64 for float64 queries) whatever the autocast state, in O(N * chunk_size) memory. Gradients flow to
    whichever of the three tensors ask for one.

    Args:
        q_NC: queries, unit norm by convention.
        k_NC: positive keys; row i belongs to query i.
        keys_KC: the dictionary, in any precision: a block at a time is converted; K may be 0 only if a loss of 0 is
            wanted.
        temperature: divides every similarity; above 0.
        chunk_size: dictionary keys visited at a time.

    Raises:
        ValueError: shapes that do not fit, or a temperature or chunk size that is not above 0.
    """
    return scored_info_nce(q_NC, k_NC, keys_KC, temperature=temperature, chunk_size=chunk_size)[0]


def scored_info_nce(
    q_NC: Tensor,
    k_NC: Tensor,
    keys_KC: Tensor | ScaledKeys,
    *,
    temperature: float,
    own_N: Tensor | None = None,
    ids_N: Tensor | None = None,
    ids_K: Tensor | None = None,
    decoupled: bool = False,
    chunk_size: int = DEFAULT_CHUNK,
) -> tuple[Tensor, Tensor]:
    """The loss of `info_nce`, and the share of queries whose positive logit exceeds that of every negative.

    The share is the accuracy of the pretext task, 0 to 1, without gradient; it costs nothing beside the loss.

    Args:
        q_NC, k_NC, keys_KC, temperature, chunk_size: as `info_nce`.
        own_N: int64; the row of the dictionary that is query i's own sample and therefore none of its negatives, -1
            for none. None means that no row is.
        ids_N, ids_K: int64 numbers of the queries' samples and of the dictionary's: where they are equal and not
            negative, the key is none of the query's negatives. So duplicates of a sample do not repel each other.
        decoupled: leave the positive out of the denominator (Yeh et al. 2022, 2110.06848): the loss is
            log sum_j exp(q k_j / T) - q k / T over the negatives alone, log(K) when all logits are equal.

    Raises:
        ValueError: as `info_nce`; rows or ids that do not fit; decoupled, a query that may be without any negative.
    """
    return _scored(q_NC, k_NC, keys_KC, temperature, Excluded(own_N, ids_N, ids_K), decoupled, chunk_size)


def _scored(
    q_NC: Tensor, k_NC: Tensor, keys_KC: Keys, temperature: float, excluded: Excluded, decoupled: bool, chunk_size: int
) -> tuple[Tensor, Tensor]:
    _check(q_NC, k_NC, keys_KC, temperature)
    excluded.check(len(q_NC), len(keys_KC))
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: need at least 1")
    if decoupled:
        excluded.check_decoupled(len(keys_KC))
    dtype = _precision(q_NC)
    with torch.autocast(device_type=q_NC.device.type, enabled=False):
        keys = keys_KC.to(dtype) if keys_KC.requires_grad else keys_KC  # without a gradient: block by block
        loss, accuracy = _StreamingInfoNCE.apply(
            q_NC.to(dtype), k_NC.to(dtype), keys, excluded, float(temperature), decoupled, int(chunk_size)
        )
    return loss, accuracy


def in_batch_info_nce(
    q_NC: Tensor,
    k_NC: Tensor,
    keys_KC: Tensor | ScaledKeys | None = None,
    *,
    temperature: float,
    ids_N: Tensor | None = None,
    ids_K: Tensor | None = None,
    decoupled: bool = False,
    chunk_size: int = DEFAULT_CHUNK,
) -> tuple[Tensor, Tensor]:
    """Loss and accuracy as `scored_info_nce`, where the dictionary is the keys of the batch itself, over all ranks.

    The positive of query i is k_i, its negatives are all other keys: cross-entropy over the N x N similarities with
    label i. If the keys ask for a gradient they get it from all queries, those of other ranks included.

    Args:
        q_NC, k_NC, temperature, chunk_size: as `info_nce`.
        keys_KC: further negatives, a queue's keys.
        ids_N, ids_K: numbers of the batch's samples and, where there are further negatives, of theirs; as
            `scored_info_nce`.

    Raises:
        ValueError: as `info_nce`; a single key, which leaves no negative; ranks whose batches differ in size.
    """
    batch_BC = all_gather_cat(k_NC)
    if len(batch_BC) < 2 and keys_KC is None:
        raise ValueError(f"batch of {len(batch_BC)}: the negatives are the batch's other keys, need at least 2 samples")
    own_N = torch.arange(len(k_NC), device=k_NC.device) + rank() * len(k_NC)
    ids = None if ids_N is None else all_gather_cat(ids_N)
    if keys_KC is not None and (ids is None) != (ids_K is None):
        raise ValueError("ids of the batch alone, or of the further keys alone: give both or none")
    if ids is not None and ids_K is not None:
        ids = torch.cat([ids, ids_K])
    excluded = Excluded(own_N, ids_N, ids)
    return _scored(q_NC, k_NC, _joined(batch_BC, keys_KC), temperature, excluded, decoupled, chunk_size)


def _joined(batch_BC: Tensor, keys_KC: Tensor | ScaledKeys | None) -> Keys:
    if keys_KC is None:
        return batch_BC
    if batch_BC.requires_grad or keys_KC.requires_grad:
        return torch.cat([batch_BC, keys_KC.to(batch_BC.dtype)])
    return JoinedKeys(batch_BC, keys_KC)


def contrastive_logits(q_NC: Tensor, k_NC: Tensor, keys_KC: Tensor | ScaledKeys, *, temperature: float) -> Tensor:
    """The N x (1 + K) logits of Algorithm 1, positive first, for inspection: O(N * K) memory, precision as `info_nce`.

    Raises:
        ValueError: as `info_nce`.
    """
    _check(q_NC, k_NC, keys_KC, temperature)
    dtype = _precision(q_NC)
    with torch.autocast(device_type=q_NC.device.type, enabled=False):
        q_NC, k_NC = q_NC.to(dtype), k_NC.to(dtype)
        positive = (q_NC * k_NC).sum(dim=1, keepdim=True)
        return torch.cat([positive, q_NC @ keys_KC.to(dtype).T], dim=1) / temperature


def _precision(q_NC: Tensor) -> torch.dtype:
    return torch.float64 if q_NC.dtype == torch.float64 else torch.float32


class _StreamingInfoNCE(torch.autograd.Function):
    """Forward accumulates the log-sum-exp and the attention output together; backward only scales."""

    @staticmethod
    def forward(
        ctx: Any,
        q_NC: Tensor,
        k_NC: Tensor,
        keys_KC: Keys,
        excluded: Excluded,
        temperature: float,
        decoupled: bool,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        need_q, need_k, need_keys = ctx.needs_input_grad[:3]
        scaled_NC = q_NC / temperature
        positive_N = (scaled_NC * k_NC).sum(dim=1)
        attended_NC = torch.empty_like(q_NC) if need_q else None
        # Where the log-sum-exp begins: with the positive, or with nothing.
        first_N = torch.full_like(positive_N, torch.finfo(positive_N.dtype).min) if decoupled else positive_N
        # Filled in place: small tensors that stay would keep the host's allocator from using a tile's memory again.
        normaliser_N, hardest_N = torch.empty_like(positive_N), torch.empty_like(positive_N)
        for tile in _tiles(len(q_NC)):
            normaliser_N[tile], hardest_N[tile] = _scan(
                scaled_NC[tile], first_N[tile], keys_KC, excluded.rows(tile), chunk_size, _rows(attended_NC, tile)
            )
        # d loss / d logit is (softmax - 1) for the positive, decoupled -1, and softmax for each negative.
        pull_N = torch.full_like(positive_N, -1.0) if decoupled else torch.expm1(positive_N - normaliser_N)
        scale = 1.0 / (temperature * max(len(q_NC), 1))
        grad_q = (attended_NC + pull_N[:, None] * k_NC) * scale if attended_NC is not None else None
        grad_k = pull_N[:, None] * q_NC * scale if need_k else None
        ctx.save_for_backward(grad_q, grad_k, *((scaled_NC, keys_KC, normaliser_N) if need_keys else ()))
        ctx.chunk_size, ctx.excluded = chunk_size, excluded
        accuracy = (positive_N > hardest_N).to(positive_N.dtype).mean()
        ctx.mark_non_differentiable(accuracy)
        return (normaliser_N - positive_N).mean(), accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        grad_q, grad_k, *rest = ctx.saved_tensors
        grad_keys = None
        if rest:  # a dictionary that learns (end-to-end) pays a second pass; a queue never comes here
            (scaled_NC, keys_KC, normaliser_N), excluded = rest, ctx.excluded
            with torch.autocast(device_type=keys_KC.device.type, enabled=False):  # a backward may run inside autocast
                grad_keys = torch.zeros_like(keys_KC)
                grads_JC = torch.split(grad_keys, ctx.chunk_size)
                for tile in _tiles(len(scaled_NC)):
                    blocks = _blocks(scaled_NC[tile], keys_KC, excluded.rows(tile), ctx.chunk_size)
                    for grad_JC, (logits_NJ, _chunk_JC) in zip(grads_JC, blocks, strict=True):
                        weights_NJ = logits_NJ.sub_(normaliser_N[tile, None]).exp_()
                        grad_JC.addmm_(weights_NJ.T, scaled_NC[tile])
                grad_keys *= grad / max(len(scaled_NC), 1)
        return (
            grad_q * grad if grad_q is not None else None,
            grad_k * grad if grad_k is not None else None,
            grad_keys,
            None,
            None,
            None,
            None,
        )


def _tiles(length: int) -> list[slice]:
    return [slice(first, first + TILE_ROWS) for first in range(0, max(length, 1), TILE_ROWS)]


def _rows(tensor: Tensor | None, tile: slice) -> Tensor | None:
    return None if tensor is None else tensor[tile]


def _scan(
    scaled_NC: Tensor,
    first_N: Tensor,
    keys_KC: Keys,
    excluded: Excluded,
    chunk_size: int,
    attended_NC: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and largest negative logit of some queries; the mean key under the softmax goes to `attended_NC`.

    `first_N`: a logit of the sum that is no key's; the smallest number there is for none.
    """
    hardest_N = torch.full_like(first_N, -torch.inf)  # largest logit of a negative so far
    none = torch.finfo(first_N.dtype).min
    peak_N, mass_N = first_N, (first_N > none).to(first_N.dtype)  # log-sum-exp = peak + log(mass)
    if attended_NC is not None:
        attended_NC.zero_()  # sum over negatives of exp(logit - peak) * key
    for logits_NJ, chunk_JC in _blocks(scaled_NC, keys_KC, excluded, chunk_size):
        hardest_N = torch.maximum(hardest_N, logits_NJ.amax(dim=1))
        new_peak_N = torch.maximum(peak_N, hardest_N)
        weights_NJ = logits_NJ.sub_(new_peak_N[:, None]).exp_()
        shrink_N = (peak_N - new_peak_N).exp()
        mass_N = mass_N * shrink_N + weights_NJ.sum(dim=1)
        if attended_NC is not None:
            attended_NC.mul_(shrink_N[:, None]).addmm_(weights_NJ, chunk_JC)
        peak_N = new_peak_N
        del chunk_JC  # before the next one is made
    if attended_NC is not None:
        attended_NC.div_(mass_N[:, None])
    return peak_N + mass_N.log(), hardest_N


def _blocks(scaled_NC: Tensor, keys_KC: Keys, excluded: Excluded, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits of each chunk of the dictionary, minus infinity where a key is no negative, and the chunk."""
    memory = scaled_NC.new_empty(len(scaled_NC) * min(chunk_size, len(keys_KC)))  # of every block in turn
    for first in range(0, len(keys_KC), chunk_size):
        chunk_JC = keys_KC[first : first + chunk_size].to(scaled_NC.dtype)
        shape = (len(scaled_NC), len(chunk_JC))
        logits_NJ = torch.mm(scaled_NC, chunk_JC.T, out=memory[: shape[0] * shape[1]].view(shape))
        excluded.hide_(logits_NJ, first)
        yield logits_NJ, chunk_JC
        del chunk_JC


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless it is above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: need a value above 0 (the papers use 0.07 to 0.2)")


def _check(q_NC: Tensor, k_NC: Tensor, keys_KC: Keys, temperature: float) -> None:
    check_temperature(temperature)
    if q_NC.ndim != 2 or q_NC.shape != k_NC.shape or keys_KC.ndim != 2 or keys_KC.shape[1] != q_NC.shape[1]:
        raise ValueError(
            f"q {tuple(q_NC.shape)}, k {tuple(k_NC.shape)}, keys {tuple(keys_KC.shape)}: "
            "expected (N, C), (N, C) and (K, C)"
        )


def normalize(embeddings_NC: Tensor) -> Tensor:
    """Rows scaled to unit Euclidean length, in at least float32 (autocast hands over bfloat16)."""
    if embeddings_NC.dtype in (torch.bfloat16, torch.float16):
        embeddings_NC = embeddings_NC.float()
    return functional.normalize(embeddings_NC, dim=1)
