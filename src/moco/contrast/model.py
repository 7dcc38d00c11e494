"""What the mechanisms share: a query encoder with its BatchNorm cure, and how keys are encoded in other company.

N: samples on this rank   C: embedding width
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Required, Self, TypedDict, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from moco.contrast.batch import UNKNOWN_LENGTH, batch_length, gather_batch, select
from moco.contrast.batchnorm import (
    BatchNormCure,
    freeze_batchnorm_,
    has_batchnorm,
    interleave,
    resolve_groups,
    split_batchnorm,
)
from moco.contrast.collective import all_gather_cat, copy_from_first_, rank, shared_permutation, world_size
from moco.contrast.first_step import WRAPPING, check_scale, gradient_norm, ranks_moved_alike, sample_values
from moco.contrast.similarity import LearnedTemperature, Similarity, SimilarityKind

Backward = Callable[[Tensor], Any]


class Shared(TypedDict, total=False):
    """Options that every mechanism has; `moco.contrast.MoCo` describes them."""

    embedding_dim: Required[int]
    temperature: Required[float | LearnedTemperature]
    similarity: SimilarityKind
    batchnorm: BatchNormCure
    split_groups: int | None


class Trained(Protocol):
    """What a step drives: a model, or two together."""

    backward_checked: bool

    @property
    def query_side(self) -> nn.Module:
        """What learns by gradient."""

    def after_step_(self, *keys: Any) -> None:
        """What follows the optimiser's step."""


class LossAndKeys(NamedTuple):
    """What the loss of a batch yields.

    Attributes:
        loss: mean loss of this rank's queries in nats, with gradient.
        pretext_accuracy: share of them whose positive beat every negative, 0 to 1, on the device, without gradient.
        keys: for `after_step_`: what the batch brings into the dictionary, of all ranks; None where there is none.
    """

    loss: Tensor
    pretext_accuracy: Tensor
    keys: Any = None


def descend_(model: Trained, loss: Tensor, optimizer: torch.optim.Optimizer, backward: Backward) -> None:
    """Gradients to zero, backward, optimiser; a model's first time is checked.

    Raises:
        ValueError: `backward` left no gradient, or a scaled one which the optimiser took as it was.
    """
    optimizer.zero_grad()
    if model.backward_checked:
        backward(loss)
        optimizer.step()
        return
    arrived: list[Tensor] = []  # the gradient of the loss, 1 unless something scales
    loss.register_hook(arrived.append)  # type: ignore[no-untyped-call]
    backward(loss)
    left = gradient_norm(model.query_side)
    optimizer.step()
    check_scale(float(arrived[0]) if arrived else 1.0, left=left, taken=gradient_norm(model.query_side))
    model.backward_checked = True


def take_step(
    model: Trained, found: LossAndKeys, optimizer: torch.optim.Optimizer, backward: Backward
) -> tuple[Tensor, Tensor]:
    """What follows the loss in a step of any mechanism; returns loss and pretext accuracy, both detached."""
    descend_(model, found.loss, optimizer, backward)
    model.after_step_(found.keys)
    return found.loss.detach(), found.pretext_accuracy


class ContrastiveModel(nn.Module):
    """A query encoder, trained by gradient; each mechanism adds where its keys and negatives come from.

    Arguments and errors are those of `moco.contrast.MoCo`.
    """

    backward_checked = False  # by the first step
    similarity_may_learn = False  # where queries alone go through `query_side`, and the dictionary takes any key
    _call_q: Callable[[Any], Tensor] | None = None
    _call_k: Callable[[Any], Tensor] | None = None
    _start_S: Tensor | None = None  # some weights before the first of several ranks' steps
    _ranks_checked = False

    def __init__(
        self,
        encoder: nn.Module,
        *,
        embedding_dim: int,
        temperature: float | LearnedTemperature,
        similarity: SimilarityKind = "cosine",
        batchnorm: BatchNormCure = "auto",
        split_groups: int | None = None,
    ) -> None:
        super().__init__()
        self.similarity = Similarity(similarity, embedding_dim, temperature)
        if self.similarity.learns and not self.similarity_may_learn:
            raise ValueError(f"a similarity or temperature that learns in {type(self).__name__}: MoCo alone takes it")
        for module in encoder.modules():
            if isinstance(module, DataParallel | DistributedDataParallel):
                raise TypeError(f"an encoder inside {type(module).__name__}: give the plain module, then {WRAPPING}")
        self.batchnorm = _resolve_cure(batchnorm, encoder, split_groups)
        self.split_groups = split_groups
        self.batch_counts = has_batchnorm(encoder) and self.batchnorm != "frozen"
        # What the loss divides by: a learned temperature has divided the queries already.
        self.temperature = 1.0 if isinstance(temperature, LearnedTemperature) else temperature
        self.embedding_dim = embedding_dim
        self.encoder_q = split_batchnorm(encoder, split_groups) if self.batchnorm == "split" else encoder

    def _start_(self, *, training: bool) -> None:
        """The last line of each mechanism's constructor: ranks, which may have drawn from different seeds, agree."""
        copy_from_first_([*self.parameters(), *self.buffers()])
        self.train(training)

    def train(self, mode: bool = True) -> Self:
        """The encoders train or evaluate; frozen BatchNorm layers always stay in inference form."""
        super().train(mode)
        if self.batchnorm == "frozen":
            freeze_batchnorm_(self)
        return self

    def run_encoders_with(self, *, query: Callable[[Any], Tensor], key: Callable[[Any], Tensor] | None = None) -> None:
        """Call the encoders through wrappers (autocast, DistributedDataParallel, compilation).

        `query` wraps `query_side`, which is f_q alone where nothing after it learns.
        `key` is for a model with a key encoder of its own; where keys come from f_q, they go through `query` too.
        The wrappers are not registered, so that the state dict stays the same under every strategy. They stay behind
        when the model is copied or pickled, because they would go on calling the encoders of the original.
        """
        self.__dict__.update(_call_q=query, _call_k=key)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_call_q", "_call_k")}

    @property
    def query_side(self) -> nn.Module:
        """What learns by gradient, as one module: f_q, and what learns after it (a predictor, the similarity)."""
        return nn.Sequential(self.encoder_q, self.similarity) if self.similarity.learns else self.encoder_q

    def after_step_(self, *keys: Any) -> None:
        """What follows the optimiser's step: f_k moves once, and the keys enter the dictionary in the order given.

        Args:
            keys: the `keys` of the step's loss; of each micro-batch's, if gradients were accumulated.

        Raises:
            ValueError: the encoders of several ranks moved apart, which is looked for until they first move.
        """
        if self.similarity.temperature is not None:
            self.similarity.temperature.clamp_()
        if world_size() > 1 and not self._ranks_checked and self._start_S is not None:
            self._ranks_checked = ranks_moved_alike(self._start_S, sample_values(self.query_side))

    def query(self, x_q: Any) -> Tensor:
        """q = f_q(x_q), (N, C), with gradient; unit norm for a cosine, divided by a learned temperature."""
        length, device = self._checked_length(x_q)
        encode = self.query_side if self._call_q is None else self._call_q
        if self.batchnorm != "split" or not self.training:
            return self._embed(encode, x_q, length, query=True)
        order = interleave(length, resolve_groups(self.split_groups, length), device)
        return self._embed(encode, select(x_q, order), length, query=True)[order.argsort()]

    def _encode_keys(self, encode: Callable[[Any], Tensor], x_k: Any) -> Tensor:
        """Unit-norm keys of a batch that is shuffled first where the cure says so; in the order of the samples."""
        length, device = self._checked_length(x_k)
        if self.batchnorm == "shuffle":
            return self._shuffled_key(encode, x_k, length, device)
        if self.batchnorm != "split" or not self.training:
            return self._embed(encode, x_k, length)
        order = torch.randperm(length).to(device, non_blocking=True)
        return self._embed(encode, select(x_k, order), length)[order.argsort()]

    def _shuffled_key(self, encode: Callable[[Any], Tensor], x_k: Any, length: int, device: torch.device) -> Tensor:
        """Each rank encodes a random slice of the whole batch, so that a key's BatchNorm company is not its query's."""
        mine = slice(rank() * length, (rank() + 1) * length)
        everyone = gather_batch(x_k)  # first, because it checks that the ranks' batches agree
        order = shared_permutation(length * world_size(), device)
        keys_NC = self._embed(encode, select(everyone, order[mine]), length)
        return all_gather_cat(keys_NC)[order.argsort()][mine]

    def _checked_length(self, batch: Any) -> tuple[int, torch.device]:
        """Samples and device; an encoder without company among samples may take what only itself can count."""
        length, device = batch_length(batch, known=self.batch_counts)
        if self._start_S is None and world_size() > 1:
            self._start_S = sample_values(self.query_side)
        if length < 2 and self.training and self.batch_counts:
            raise ValueError(f"batch of {length} with BatchNorm: its statistics need at least 2 samples")
        return length, device

    def _embed(self, encode: Callable[[Any], Tensor], batch: Any, length: int, *, query: bool = False) -> Tensor:
        embeddings = encode(batch)
        rows = length if length != UNKNOWN_LENGTH else embeddings.shape[0]
        if embeddings.shape != (rows, self.embedding_dim):
            raise ValueError(
                f"the encoder returned {tuple(embeddings.shape)}: expected {(rows, self.embedding_dim)} "
                "(one row for each sample, embedding_dim wide)"
            )
        # A similarity that learns is part of the query side and has been at work there.
        return embeddings if query and self.similarity.learns else self.similarity.key(embeddings)


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
