"""A sentence encoder from text files, by momentum contrast.

    python examples/text/text_train.py corpus/{pairs,sentences,captions}.txt --sts STS_FOLDER --out out

Files have one sentence a line, or two texts of one meaning with a tab between them. Writes `encoder.safetensors`,
`tokenizer.json` and `summary.json` to --out. Needs `pip install 'moco-contrast[text]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from safetensors.torch import save_file
from text_corpus import Source, TextError, encode, make_source, read_lines, train_tokenizer
from text_encoder import Kind, SentenceEncoder
from text_scores import Embedder, held_out_crops, read_sts, retrieval, spearman
from text_views import Views
from tokenizers import Tokenizer
from torch import Tensor

from moco.contrast import MoCo, contrast_step, half_cosine

HELD_OUT = 1000  # lines of the corpus for retrieval, at most a tenth of it
SPLITS = ("dev", "test")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="text files")
    parser.add_argument("--weights", type=float, nargs="+", help="chance of each file at a step; default: alike")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sts", type=Path, help="folder of stsb-en-{dev,test}.csv, to score")
    parser.add_argument("--encoder", choices=get_args(Kind), default="mean")
    parser.add_argument("--embedding-dim", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=20_000, help="pieces of the tokenizer, at most")
    parser.add_argument("--max-tokens", type=int, default=192, help="longest text")
    parser.add_argument("--cut", action="store_true", help="keep the beginning of longer texts; else they are refused")
    parser.add_argument("--negatives", choices=["queue", "batch", "both"], default="both")
    parser.add_argument("--dictionary-size", type=int, default=256, help="K")
    parser.add_argument("--key-momentum", type=float, default=0.8, help="m")
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--crop", type=float, default=1.0, help="least share of a text that a view keeps")
    parser.add_argument("--delete", type=float, default=0.1, help="chance of a token to go")
    parser.add_argument("--repeat", type=float, default=0.0, help="chance of a token to be said twice")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, score and write; returns the exit code."""
    options = parse(arguments)
    try:
        print(json.dumps(run(options), indent=2))
    except (TextError, ValueError) as error:
        print(f"text_train: {error}", file=sys.stderr)
        return 2
    return 0


class Task(NamedTuple):
    """What there is to learn from and to score by."""

    tokenizer: Tokenizer
    sources: list[Source]
    held_out: list[str]
    sts: dict[str, tuple[list[str], list[str], np.ndarray]]


def prepare(options: argparse.Namespace) -> Task:
    """Read the files, train the tokenizer on them."""
    files = [read_lines(path) for path in options.files]
    sts = {split: read_sts(options.sts / f"stsb-en-{split}.csv") for split in SPLITS} if options.sts else {}
    files, held_out = hold_out(files)
    tokenizer = train_tokenizer((text for lines in files for line in lines for text in line), size=options.vocabulary)
    sources = [
        make_source(tokenizer, lines, max_tokens=options.max_tokens, cut=options.cut, name=str(path))
        for lines, path in zip(files, options.files, strict=True)
    ]
    return Task(tokenizer, sources, held_out, sts)


def run(options: argparse.Namespace) -> dict[str, object]:
    """What the command does; returns the summary."""
    began = time.perf_counter()
    task = prepare(options)
    encoder, summary = train_and_score(task, options)
    summary["seconds_in_all"] = round(time.perf_counter() - began)
    named = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    summary["options"] = {**named, "files": [str(path) for path in options.files]}
    write(options.out, encoder, task.tokenizer, summary)
    return summary


def train_and_score(task: Task, options: argparse.Namespace) -> tuple[SentenceEncoder, dict[str, object]]:
    """A trained encoder, and what it reached."""
    torch.manual_seed(options.seed)
    encoder = SentenceEncoder(
        count_tokens(task.sources, task.tokenizer.get_vocab_size()),
        options.embedding_dim,
        kind=options.encoder,
        dropout=options.dropout,
        max_tokens=options.max_tokens * (2 if options.repeat else 1),
    )
    method = Embedder(embedding(encoder, task.tokenizer, options.max_tokens))
    before = {f"sts_{split}_untrained": spearman(method, task.sts[split]) for split in task.sts}
    began = time.perf_counter()
    losses = train(encoder, task.sources, options)
    found = {"training_seconds": round(time.perf_counter() - began), "steps": options.steps, "loss": losses[-1]}
    scores = {f"sts_{split}": spearman(method, task.sts[split]) for split in task.sts}
    crops = zip(("recall_at_1", "mrr"), retrieval(method, *held_out_crops(task.held_out)), strict=True)
    return encoder, {**found, **before, **scores, **dict(crops)}


def hold_out(files: list[list[tuple[str, ...]]]) -> tuple[list[list[tuple[str, ...]]], list[str]]:
    """Lines to learn from, and the last lines' texts of the last file, which nothing learns from."""
    count = min(HELD_OUT, len(files[-1]) // 10)
    held_out = [line[0] for line in files[-1][len(files[-1]) - count :]] or [line[0] for line in files[-1]]
    return [*files[:-1], files[-1][: len(files[-1]) - count]], held_out


def count_tokens(sources: list[Source], size: int) -> Tensor:
    """(size,): how often each token occurs."""
    return sum(torch.bincount(source.queries.tokens, minlength=size) for source in sources).float()


def train(encoder: SentenceEncoder, sources: list[Source], options: argparse.Namespace) -> list[float]:
    """The loop; returns the losses."""
    model = MoCo(
        encoder,
        dictionary_size=options.dictionary_size,
        embedding_dim=options.embedding_dim,
        key_momentum=options.key_momentum,
        temperature=options.temperature,
        with_ids=True,
    ).train()
    views = Views(crop=options.crop, delete=options.delete, repeat=options.repeat)
    optimizer = torch.optim.Adam(model.query_side.parameters(), lr=options.learning_rate, fused=True)
    draw = batches(sources, options.weights, options.batch_size)
    losses = []
    for step in range(options.steps):
        rate = half_cosine(step, options.steps, start=options.learning_rate, end=0.0) * min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens_q, tokens_k, ids = draw()
        loss, accuracy = contrast_step(
            model, views(tokens_q), views(tokens_k), optimizer, negatives=options.negatives, ids_N=ids
        )
        losses.append(float(loss))
        if (step + 1) % max(options.steps // 10, 1) == 0:
            recent = np.mean(losses[-100:])
            print(f"step {step + 1}: loss {recent:.3f}, accuracy {float(accuracy):.2f}", file=sys.stderr, flush=True)
    return losses


def batches(sources: list[Source], weights: list[float] | None, size: int) -> Callable[[], tuple[Tensor, ...]]:
    """Draws a batch of one source: queries, keys and ids. Either text of a pair is the query, by chance.

    Raises:
        TextError: weights that do not fit.
    """
    if weights is not None and (len(weights) != len(sources) or min(weights) < 0 or sum(weights) <= 0):
        raise TextError(f"--weights {weights}: give {len(sources)}, none below 0 and not all 0")
    chance = torch.tensor(weights or [1.0] * len(sources))
    first_id = torch.tensor([0, *(int(source.ids_N.max()) + 1 for source in sources)]).cumsum(0)

    def draw() -> tuple[Tensor, ...]:
        number = int(torch.multinomial(chance, 1))
        source = sources[number]
        index = torch.randint(len(source.queries), (size,))
        sides = (source.queries.rows(index), source.keys.rows(index))
        swap = source.paired and bool(torch.rand(()) < 0.5)
        return (*(sides[::-1] if swap else sides), source.ids_N[index] + first_id[number])

    return draw


@torch.no_grad()
def embedding(encoder: SentenceEncoder, tokenizer: Tokenizer, max_tokens: int) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to embeddings, (texts, C)."""

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> np.ndarray:
        tokens = encode(tokenizer, texts, max_tokens=max_tokens, cut=True)
        training = encoder.training
        encoder.eval()
        parts = torch.arange(len(tokens)).split(512)
        rows = torch.cat([encoder(tokens.rows(part)) for part in parts])
        encoder.train(training)
        return rows.numpy()

    return embed


def write(out: Path, encoder: SentenceEncoder, tokenizer: Tokenizer, summary: dict[str, object]) -> None:
    """The encoder, what it needs and what it reached."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(encoder.state_dict(), out / "encoder.safetensors")
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
