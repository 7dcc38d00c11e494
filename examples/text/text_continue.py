"""A trained sentence-transformers model, continued by momentum contrast on unlabelled text.

    python examples/text/text_continue.py MODEL_FOLDER corpus/captions.txt --sts STS_FOLDER --out out

A line's two texts are query and key; a line of one text is both, and dropout makes the views. Uses the library's own
trainer with `MomentumContrastLoss`. Nothing is downloaded: MODEL_FOLDER is a folder on disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers_loss import MomentumContrastLoss
from text_corpus import TextError, read_lines
from text_scores import Embedder, read_sts, spearman
from text_train import SPLITS


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("files", type=Path, nargs="+", help="text files")
    parser.add_argument("--sts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--negatives", choices=["queue", "batch", "both"], default="both")
    parser.add_argument("--dictionary-size", type=int, default=256, help="K")
    parser.add_argument("--key-momentum", type=float, default=0.8, help="m")
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score, train, score; returns the exit code."""
    options = parse(arguments)
    try:
        if not (options.model / "modules.json").is_file():
            raise TextError(f"{options.model}: no modules.json; give the folder of a sentence-transformers model")
        lines = [line for path in options.files for line in read_lines(path)]
        sts = {split: read_sts(options.sts / f"stsb-en-{split}.csv") for split in SPLITS}
    except TextError as error:
        print(f"text_continue: {error}", file=sys.stderr)
        return 2
    model = SentenceTransformer(str(options.model), device="cpu", local_files_only=True)
    method = Embedder(lambda texts: model.encode(list(texts), show_progress_bar=False))
    summary: dict[str, object] = {f"sts_{split}_before": spearman(method, sts[split]) for split in SPLITS}
    began = time.perf_counter()
    train(model, lines, options)
    summary["seconds"] = round(time.perf_counter() - began)
    summary |= {f"sts_{split}_after": spearman(method, sts[split]) for split in SPLITS}
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))
    return 0


def train(model: SentenceTransformer, lines: list[tuple[str, ...]], options: argparse.Namespace) -> None:
    """Continue the model, in place, and save it."""
    columns = {"query": [line[0] for line in lines], "key": [line[-1] for line in lines]}
    loss = MomentumContrastLoss(
        model,
        dictionary_size=options.dictionary_size,
        key_momentum=options.key_momentum,
        temperature=options.temperature,
        negatives=options.negatives,
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(options.out),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    pairs = datasets.Dataset.from_dict(columns)
    SentenceTransformerTrainer(model, arguments, train_dataset=pairs, loss=loss, callbacks=[loss.callback()]).train()
    model.save(str(options.out))


if __name__ == "__main__":
    sys.exit(main())
