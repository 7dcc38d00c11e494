"""MoCo's loss with more queries for each key, another positive than the sample's own, or a decoupled loss.

Small views (Caron et al. 2020, 2006.09882; with a loss like MoCo's Zheng et al. 2021, 2107.09282), patches of the
query's view (Ci et al. 2022, 2207.08220), the nearest key of the queue as positive (Dwibedi et al. 2021, 2104.14548;
Koohpayegani et al. 2021, 2105.07269), the positive left out of the denominator (Yeh et al. 2022, 2110.06848). Without
any of them this is `moco_loss` and `symmetric_moco_loss`.

N: samples on this rank   V: queries of a sample   C: embedding width   K: keys in the dictionary   D: feature width
"""

from __future__ import annotations

import itertools
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from moco.contrast.algorithm import MoCo
from moco.contrast.batch import select
from moco.contrast.batchnorm import interleave, resolve_groups
from moco.contrast.collective import all_gather_cat
from moco.contrast.loss import DEFAULT_CHUNK, TILE_ROWS, normalize, scored_info_nce
from moco.contrast.model import Backward, LossAndKeys, Shared, take_step
from moco.contrast.stored_keys import DictionaryDtype, ScaledKeys

PAIRS = tuple(itertools.combinations(range(4), 2))  # of the patches of 2 x 2: six


def variant_loss(model: MoCoVariant, x_1: Any, x_2: Any, small: Any = None, *, symmetric: bool = False) -> LossAndKeys:
    """Loss of two views of the same samples and of further small ones; the queue stays as it is.

    Each key has several queries, and their losses are averaged: those of the other view, and every small view's.
    Symmetric, the losses of both views' keys are summed, and both views' keys are enqueued.

    Args:
        model: says what its queries and positives are.
        x_1, x_2: the views; without `symmetric` the query's and the key's.
        small: small views, all first ones of the N samples, then all second ones, ...; None for none.
        symmetric: both views as query and as key.
    """
    q_VNC = [model.queries(x) for x in ((x_1, x_2) if symmetric else (x_1,))]
    if small is not None:
        small_VNC = model.query(small)
        q_VNC = [torch.cat([queries, small_VNC]) for queries in q_VNC]
    k_NC = [model.key(x) for x in ((x_1, x_2) if symmetric else (x_2,))]
    scored = [_loss_of_queries(model, queries, keys) for queries, keys in zip(q_VNC, reversed(k_NC), strict=True)]
    losses, accuracies = map(torch.stack, zip(*scored, strict=True))
    return LossAndKeys(losses.sum(), accuracies.mean(), torch.cat([all_gather_cat(keys) for keys in k_NC]))


def variant_step(
    model: MoCoVariant,
    x_1: Any,
    x_2: Any,
    optimizer: torch.optim.Optimizer,
    *,
    small: Any = None,
    symmetric: bool = False,
    backward: Backward = torch.Tensor.backward,
) -> tuple[Tensor, Tensor]:
    """As `moco_step`, with the loss of `variant_loss`."""
    return take_step(model, variant_loss(model, x_1, x_2, small, symmetric=symmetric), optimizer, backward)


def _loss_of_queries(model: MoCoVariant, q_VNC: Tensor, k_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the V queries of each key, which come one after the other as (V * N, C)."""
    positive_NC, own_N = model.positives(k_NC)
    times = len(q_VNC) // len(k_NC)
    own = None if own_N is None else own_N.repeat(times)
    options: Any = {"temperature": model.temperature, "decoupled": model.decoupled}
    return scored_info_nce(q_VNC, positive_NC.repeat(times, 1), model.queue.keys, own_N=own, **options)


class MoCoVariant(MoCo):
    """MoCo whose queries may be patches and whose positives may be neighbours; its state dict is MoCo's.

    Args:
        encoder, dictionary_size, key_momentum, dictionary_dtype, shared: as `MoCo`, and so are the errors.
        patches: each query's view is split into 2 x 2 patches, which the backbone encodes one by one; a query is the
            mean of two patches' features, through the head: six queries of a view. The encoder needs the parts
            `backbone`, from images of half the height and width too, and `head`.
        decoupled: leave the positive out of the loss's denominator (Yeh et al. 2022, 2110.06848).

    Attributes:
        nearest_share: share of the samples, drawn at random, whose positive is the key of the queue that is nearest to
            their own key, 0 to 1; that key is then none of their negatives. May be set anew before any step.

    Raises:
        TypeError: patches of an encoder without these parts.
        ValueError: a similarity other than the cosine, or a temperature that learns.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dictionary_size: int,
        key_momentum: float,
        dictionary_dtype: DictionaryDtype = "fp32",
        patches: bool = False,
        decoupled: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        if patches and not all(isinstance(getattr(encoder, part, None), nn.Module) for part in ("backbone", "head")):
            raise TypeError(f"patches with a {type(encoder).__name__}: it needs the parts backbone and head")
        sizes: dict[str, Any] = {"dictionary_size": dictionary_size, "key_momentum": key_momentum}
        super().__init__(encoder, **sizes, dictionary_dtype=dictionary_dtype, **shared)
        if self.similarity.kind != "cosine":
            raise ValueError(f"similarity={self.similarity.kind!r} in MoCoVariant: MoCo alone takes it")
        self.patches, self.decoupled = patches, decoupled

    patches = False
    similarity_may_learn = False
    nearest_share = 0.0

    @property
    def query_side(self) -> nn.Module:
        """As `ContrastiveModel.query_side`; with patches it makes (N, 6, C) of a batch of images."""
        return PatchPairs(self.encoder_q) if self.patches else self.encoder_q

    def queries(self, x_q: Any) -> Tensor:
        """All queries of a view, (V * N, C), unit norm, with gradient: every sample's first, then every second, ..."""
        if not self.patches:
            return self.query(x_q)
        length, device = self._checked_length(x_q)
        groups = resolve_groups(self.split_groups, length) if self.batchnorm == "split" and self.training else 1
        order = interleave(length, groups, device)
        encode = self.query_side if self._call_q is None else self._call_q
        embeddings_NVC = encode(select(x_q, order))[order.argsort()]
        return normalize(embeddings_NVC.transpose(0, 1).flatten(0, 1))

    @torch.no_grad()
    def positives(self, k_NC: Tensor) -> tuple[Tensor, Tensor | None]:
        """The positive of each sample, (N, C), and its row in the queue, -1 where it is the sample's own key."""
        if not self.nearest_share:
            return k_NC, None
        chosen_N = torch.rand(len(k_NC)).to(k_NC.device, non_blocking=True) < self.nearest_share
        rows_N = torch.where(chosen_N, nearest_rows(k_NC, self.queue.keys), -1)
        stored_NC = self.queue.keys[rows_N.clamp(min=0)].to(k_NC.dtype)
        return torch.where(chosen_N[:, None], stored_NC, k_NC), rows_N


class PatchPairs(nn.Module):
    """Images (N, C, H, W) to the embeddings of pairs of their four patches, (N, 6, C), not normalised.

    It shares the encoder's parts. The patches of an image follow one another in the backbone's batch, so that they are
    in one group of a split BatchNorm.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        quarters = [x[:, :, top : top + height, left : left + width] for top in (0, height) for left in (0, width)]
        patches = torch.stack(quarters, dim=1).flatten(0, 1)
        if x.is_contiguous(memory_format=torch.channels_last):
            patches = patches.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.encoder.get_submodule("backbone")(patches)
        features_N4D = features.view(len(x), 4, -1)
        pairs_NVD = torch.stack([features_N4D[:, pair].mean(dim=1) for pair in map(list, PAIRS)], dim=1)
        embeddings: Tensor = self.encoder.get_submodule("head")(pairs_NVD.flatten(0, 1))
        return embeddings.view(len(x), len(PAIRS), -1)


@torch.no_grad()
def nearest_rows(k_NC: Tensor, keys_KC: Tensor | ScaledKeys, *, chunk_size: int = DEFAULT_CHUNK) -> Tensor:
    """The row of the dictionary with the largest inner product with each key, (N,) int64; the first of equal ones.

    In blocks of the dictionary, as the loss: O(1,024 * chunk_size) memory.
    """
    found = []
    for k in torch.split(k_NC, TILE_ROWS):
        best, rows = k.new_full((len(k),), -torch.inf), torch.zeros(len(k), dtype=torch.int64, device=k.device)
        for first in range(0, len(keys_KC), chunk_size):
            value, row = (k @ keys_KC[first : first + chunk_size].to(k.dtype).T).max(dim=1)
            rows = torch.where(value > best, row + first, rows)
            best = torch.maximum(value, best)
        found.append(rows)
    return torch.cat(found)
