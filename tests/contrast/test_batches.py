"""Inputs of every kind reach the encoder, and their samples are chosen alike."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from moco.contrast import MoCo, moco_step
from moco.contrast.batch import batch_length, select

LENGTHS = [3, 1, 5, 2, 4, 2]
SEQUENCES = [torch.arange(1.0, length + 1)[:, None].expand(length, 6) for length in LENGTHS]


def padded() -> dict[str, Tensor]:
    tokens = rnn.pad_sequence(SEQUENCES, batch_first=True)
    return {"tokens": tokens, "mask": tokens[..., 0] > 0}


KINDS: dict[str, Any] = {
    "dict": padded(),
    "mapping": UserDict(padded()),
    "tuple": tuple(padded().values()),
    "packed": rnn.pack_sequence(SEQUENCES, enforce_sorted=False),
    "jagged": torch.nested.nested_tensor(SEQUENCES, layout=torch.jagged),
}


class Means(nn.Module):
    """The mean over a sequence of each kind, then a layer, and BatchNorm where it is asked for."""

    def __init__(self, *, batchnorm: bool) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4) if batchnorm else nn.LayerNorm(4))

    def forward(self, batch: Any) -> Tensor:
        return self.top(means(batch))


def means(batch: Any) -> Tensor:
    if isinstance(batch, rnn.PackedSequence):
        return torch.stack([sequence.mean(dim=0) for sequence in rnn.unpack_sequence(batch)])
    if isinstance(batch, Tensor):
        return torch.stack([sequence.mean(dim=0) for sequence in batch.unbind()])
    tokens, mask = batch if isinstance(batch, tuple) else (batch["tokens"], batch["mask"])
    return (tokens * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_samples_are_chosen_from_every_kind(kind: str) -> None:
    assert batch_length(KINDS[kind])[0] == len(LENGTHS)
    index = torch.tensor([4, 0, 0, 2])
    torch.testing.assert_close(means(select(KINDS[kind], index)), means(padded())[index])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batchnorm", [False, True])
def test_every_kind_takes_a_step(kind: str, batchnorm: bool) -> None:
    """With BatchNorm the key batch is shuffled and the query's interleaved; without, nothing is."""
    encoder = Means(batchnorm=batchnorm)
    model = MoCo(encoder, dictionary_size=10, embedding_dim=4, key_momentum=0.9, temperature=0.2)
    assert model.batchnorm == ("split" if batchnorm else "none")
    model.train()
    loss, _ = moco_step(model, KINDS[kind], KINDS[kind], torch.optim.SGD(encoder.parameters(), lr=0.1))
    assert loss.isfinite()
    assert int(model.queue.pointer) == len(LENGTHS)


class Bag(nn.Module):
    """Tokens in one row with the offsets of their texts, or texts as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4)

    def forward(self, batch: Any) -> Tensor:
        if isinstance(batch, list):
            batch = {
                "tokens": torch.tensor([int(digit) for text in batch for digit in text]),
                "offsets": torch.tensor([0, *map(len, batch[:-1])]).cumsum(0),
            }
        return self.bag(batch["tokens"], batch["offsets"])


@pytest.mark.parametrize(
    "batch", [{"tokens": torch.arange(8), "offsets": torch.tensor([0, 3, 4])}, ["012", "3", "4567"]]
)
def test_an_encoder_without_batchnorm_takes_what_only_itself_can_count(batch: Any) -> None:
    model = MoCo(Bag(), dictionary_size=10, embedding_dim=4, key_momentum=0.9, temperature=0.2)
    assert model.query(batch).shape == (3, 4)
    assert model.key(batch).shape == (3, 4)
