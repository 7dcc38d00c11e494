"""A queue for people who train with sentence-transformers: a loss for its trainer, and the callback that drives it.

    loss = MomentumContrastLoss(model, dictionary_size=4096, key_momentum=0.99, temperature=0.05)
    SentenceTransformerTrainer(model, arguments, train_dataset=pairs, loss=loss, callbacks=[loss.callback()]).train()

The library has losses over the batch and cached ones, none with a queue. Needs `pip install 'moco-contrast[text]'`.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import TrainerCallback

from moco.contrast import MoCo, contrast_loss


class Sentences(nn.Module):
    """A SentenceTransformer as an encoder from a dict of token tensors to (N, C)."""

    def __init__(self, transformer: SentenceTransformer) -> None:
        super().__init__()
        self.transformer = transformer  # not `model`: the trainer would put its wrapped model into f_k as well

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Sentence embeddings."""
        return self.transformer(dict(features))["sentence_embedding"]


class MomentumContrastLoss(nn.Module):
    """Contrast of two columns of texts, queries and keys; f_k is a copy of the model that follows it.

    Args:
        model: what the trainer trains.
        dictionary_size, key_momentum, temperature: K, m and T, as `moco.contrast.MoCo`.
        negatives: "queue", "batch" or "both", as `moco.contrast.contrast_loss`.
        key_mode: "follow" or "eval" (keys without dropout), as `moco.contrast.MoCo`.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        dictionary_size: int = 4096,
        key_momentum: float = 0.99,
        temperature: float = 0.05,
        negatives: str = "both",
        key_mode: str = "follow",
    ) -> None:
        super().__init__()
        self.moco = MoCo(
            Sentences(model),
            dictionary_size=dictionary_size,
            embedding_dim=model.get_embedding_dimension(),
            key_momentum=key_momentum,
            temperature=temperature,
            key_mode=key_mode,
        ).to(model.device)
        self.negatives, self.kept = negatives, []

    def forward(self, sentence_features: Any, labels: Tensor | None = None) -> Tensor:
        """The mean loss of a batch; the trainer calls it with one dict of tensors for each column.

        Raises:
            ValueError: another number of columns than two, or steps whose keys `callback()` has not taken.
        """
        columns = list(sentence_features)
        if len(columns) != 2:
            raise ValueError(f"{len(columns)} columns of texts: expected 2, queries and keys; select them first")
        found = contrast_loss(self.moco, *columns, negatives=self.negatives)
        if torch.is_grad_enabled():
            self.kept.append(found.keys)
        return found.loss

    def after_step_(self) -> None:
        """f_k moves once, and the keys of the step's batches enter the queue."""
        self.moco.after_step_(*self.kept)
        self.kept.clear()

    def callback(self) -> TrainerCallback:
        """For the trainer's `callbacks`: without it f_k never moves."""
        return _AfterStep(self)


class _AfterStep(TrainerCallback):
    def __init__(self, loss: MomentumContrastLoss) -> None:
        self.loss = loss

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called once after each step of the optimiser, also where gradients are accumulated."""
        self.loss.after_step_()
