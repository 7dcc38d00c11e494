"""The queue in sentence-transformers' own trainer, with a model made here: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moco.contrast import contrast_loss

library = pytest.importorskip("sentence_transformers")
datasets = pytest.importorskip("datasets")
static = pytest.importorskip("sentence_transformers.sentence_transformer.modules").StaticEmbedding
MomentumContrastLoss = pytest.importorskip("sentence_transformers_loss").MomentumContrastLoss
train_tokenizer = pytest.importorskip("text_corpus").train_tokenizer

TEXTS = [f"the {color} {thing}" for color in ("red", "green", "blue", "old") for thing in ("car", "cat", "hat", "sky")]


def model() -> Any:
    torch.manual_seed(0)
    layer = static(train_tokenizer(TEXTS, size=80), embedding_dim=8)
    return library.SentenceTransformer(modules=[layer], device="cpu")


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trainer_fills_the_queue_and_moves_f_k_once_a_step(tmp_path: Path, accumulation: int) -> None:
    trained = model()
    loss = MomentumContrastLoss(trained, dictionary_size=20, key_momentum=0.5)
    weights = {name: value.clone() for name, value in loss.moco.encoder_k.state_dict().items()}
    moved: list[int] = []
    step = loss.moco.update_key_encoder_
    loss.moco.update_key_encoder_ = lambda: (moved.append(1), step())  # type: ignore[method-assign]
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    pairs = datasets.Dataset.from_dict({"anchor": TEXTS, "positive": [f"{text} here" for text in TEXTS]})
    library.SentenceTransformerTrainer(
        trained, arguments, train_dataset=pairs, loss=loss, callbacks=[loss.callback()]
    ).train()
    assert len(moved) == 3
    # An epoch of 16 texts has 4 batches of 4, which make 4 steps, or 2 of two batches.
    assert int(loss.moco.queue.pointer) == 3 * 4 * accumulation % 20
    assert not loss.kept
    after = loss.moco.encoder_k.state_dict()
    assert all(not torch.equal(after[name], value) for name, value in weights.items())
    shared = {id(parameter) for parameter in loss.moco.encoder_q.parameters()}
    assert shared == {id(parameter) for parameter in trained.parameters()}, "what is trained is the user's model"


def test_its_loss_is_the_cores() -> None:
    loss = MomentumContrastLoss(model(), dictionary_size=20, negatives="both")
    columns: list[Any] = [loss.moco.encoder_q.transformer.preprocess(TEXTS[first : first + 4]) for first in (0, 4)]
    ours = loss([dict(column) for column in columns])
    assert torch.equal(ours, contrast_loss(loss.moco, *columns, negatives="both").loss)


def test_three_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="3 columns of texts: expected 2"):
        MomentumContrastLoss(model())([{}, {}, {}])
