"""The text example: views, scores, corpus, a short training, and what it refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")
import make_corpus
import text_baselines
import text_corpus
import text_grid
import text_scores
import text_train
from safetensors.torch import load_file
from text_corpus import Texts
from text_encoder import SentenceEncoder
from text_views import Views

SUBJECTS = ["a man", "a woman", "the old dog", "one small child", "some people"]
ACTIONS = ["plays the guitar", "rides a brown horse", "cuts an onion", "runs through the snow", "is sleeping outside"]
SENTENCES = [f"{subject} {action}" for subject in SUBJECTS for action in ACTIONS]
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10], [3, 4, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]])


def rows(tokens: torch.Tensor) -> list[list[int]]:
    return [[token for token in row if token] for row in tokens.tolist()]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "pairs.txt").write_text("\n".join(f"{one}\t{one} now" for one in SENTENCES))
    for split in text_train.SPLITS:
        scored = [
            f"{one},{other},{int(one[0] == other[0]) * 5}"
            for one, other in zip(SENTENCES[:-3], SENTENCES[3:], strict=True)
        ]
        (tmp_path / f"stsb-en-{split}.csv").write_text("\n".join(scored))
    return tmp_path


def test_a_crop_is_a_contiguous_part() -> None:
    torch.manual_seed(0)
    lengths = set()
    for _ in range(200):
        whole, *_, single = rows(Views(crop=0.5)(TOKENS))
        assert whole == list(range(whole[0], whole[0] + len(whole)))
        assert single == [2]
        lengths.add(len(whole))
    assert lengths == {4, 5, 6}  # half of 6 and more, rounded up


def test_deletion_keeps_the_order_and_one_token() -> None:
    torch.manual_seed(0)
    kept = [rows(Views(delete=0.5)(TOKENS)) for _ in range(400)]
    assert all(row == sorted(row) and row for view in kept for row in view)
    assert np.mean([len(view[0]) for view in kept]) == pytest.approx(3.1, abs=0.25)  # 3, and 6 where none is left


def test_repetition_says_tokens_twice_in_place() -> None:
    assert rows(Views(repeat=1.0)(TOKENS)) == [[t for t in row for _ in range(2)] for row in rows(TOKENS)]
    assert rows(Views()(TOKENS)) == rows(TOKENS)


def test_rows_are_the_texts_they_were() -> None:
    texts = Texts(torch.tensor([5, 6, 7, 8, 9], dtype=torch.int32), torch.tensor([0, 2, 3, 5]))
    assert texts.rows(torch.tensor([2, 1])).tolist() == [[8, 9], [7, 0]]


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer"])
def test_padding_does_not_change_an_embedding(kind: str) -> None:
    torch.manual_seed(0)
    encoder = SentenceEncoder(torch.ones(12), 8, kind=kind).eval()
    alone = encoder(TOKENS[1:2, :2])
    torch.testing.assert_close(encoder(TOKENS)[1:2], alone)
    assert not torch.allclose(encoder(TOKENS[:1]), alone)


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer"])
def test_a_short_training_runs_and_its_encoder_can_be_read(kind: str, corpus: Path, capsys) -> None:
    files = [str(corpus / name) for name in ("pairs.txt", "sentences.txt")]
    short = ["--steps", "4", "--batch-size", "8", "--dictionary-size", "12", "--embedding-dim", "16"]
    short += ["--encoder", kind, "--repeat", "0.2", "--crop", "0.5", "--sts", str(corpus)]
    assert text_train.main([*files, *short, "--out", str(corpus / "out")]) == 0
    summary = json.loads((corpus / "out" / "summary.json").read_text())
    assert np.isfinite([summary[name] for name in ("loss", "sts_dev", "sts_test", "recall_at_1", "mrr")]).all()
    assert load_file(corpus / "out" / "encoder.safetensors")["vectors.weight"].shape[1] == 16
    assert json.loads(capsys.readouterr().out) == summary


def test_a_seed_repeats_to_the_bit(corpus: Path) -> None:
    short = ["--steps", "3", "--batch-size", "8", "--dictionary-size", "12", "--embedding-dim", "16"]
    for out in ("one", "two"):
        assert text_train.main([str(corpus / "pairs.txt"), *short, "--out", str(corpus / out)]) == 0
    for name in ("tokenizer.json", "encoder.safetensors"):
        assert (corpus / "one" / name).read_bytes() == (corpus / "two" / name).read_bytes()


def test_the_tokenizer_finds_no_piece_of_its_own_in_a_text() -> None:
    tokenizer = text_corpus.train_tokenizer(["[PAD] a ##b été\u00a0x", "a #"], size=100)
    pieces = tokenizer.get_vocab()
    assert [pieces[text_corpus.PAD], pieces[text_corpus.UNKNOWN]] == [0, 1]
    assert not {0, 1} & set(text_corpus.encode(tokenizer, ["[PAD] ##b ete"], max_tokens=99).tokens.tolist())
    assert "##\u00e9" not in pieces


def test_training_brings_pairs_together(corpus: Path, capsys) -> None:
    lines = [f"{one}\t{one.upper()} indeed" for one in SENTENCES]
    (corpus / "pairs.txt").write_text("\n".join(lines))
    options = ["--steps", "60", "--batch-size", "16", "--negatives", "batch", "--learning-rate", "0.02"]
    assert text_train.main([str(corpus / "pairs.txt"), "--out", str(corpus / "out"), *options]) == 0
    losses = [float(part.split("loss ")[1].split(",")[0]) for part in capsys.readouterr().err.splitlines()]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", [], "0 sentences, one a line"),
        ("alone\n", [], "1 sentences"),
        ("one\ttwo\nthree\n", [], "different numbers of tabs"),
        (
            "a b\n" + "word " * 200 + "\n",
            [],
            "1 texts of more than 192 tokens (the longest, 200, is text 2): --max-tokens 200",
        ),
        ("a b\nc d\n", ["--weights", "1", "2"], "give 1"),
        ("a b\nc d\n", ["--delete", "1"], "delete at least 0 and below 1"),
        ("a b\nc d\n", ["--sts", "/nowhere"], "no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, options: list[str], message: str, tmp_path, capsys) -> None:
    (tmp_path / "file.txt").write_text(text)
    assert text_train.main([str(tmp_path / "file.txt"), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_long_texts_can_be_cut() -> None:
    tokenizer = text_corpus.train_tokenizer(SENTENCES, size=100)
    assert len(text_corpus.encode(tokenizer, ["a man " * 50], max_tokens=10, cut=True).tokens) == 10


def test_bm25_is_the_formula() -> None:
    texts = ["a a b", "b c", "c d d d"]
    ranked = text_scores.BM25(texts).scores(["a d"], texts)[0]

    def term(count: int, length: int) -> float:
        return np.log1p((3 - 1 + 0.5) / 1.5) * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / 3))

    assert ranked == pytest.approx([term(2, 3), 0, term(3, 4)])


def test_retrieval_counts_the_own_document_and_no_ties() -> None:
    class Fixed:
        def scores(self, *_: object) -> np.ndarray:
            return np.array([[3.0, 1, 2], [1, 1, 0], [9, 8, 7]])

    assert text_scores.retrieval(Fixed(), [], []) == pytest.approx((100 / 3, 100 * (1 + 1 / 2 + 1 / 3) / 3))


def test_every_baseline_agrees_that_a_text_is_most_like_itself() -> None:
    for method in text_scores.baselines(SENTENCES, width=5).values():
        assert (
            method.pairs(SENTENCES, SENTENCES) >= method.pairs(SENTENCES, SENTENCES[1:] + SENTENCES[:1]) - 1e-6
        ).all()


def test_a_corpus_is_made_from_the_dictionaries(tmp_path: Path, monkeypatch, capsys) -> None:
    wordnet, dictd = tmp_path / "usr/share/wordnet", tmp_path / "usr/share/dictd"
    wordnet.mkdir(parents=True)
    dictd.mkdir(parents=True)
    for name in make_corpus.PARTS_OF_SPEECH:
        (wordnet / f"data.{name}").write_text("  1 licence  \n")
    dog = '00000010 05 n 02 dog 0 domestic_dog 0 001 @ 00000099 n 0000 | a tame animal; "the dog barked all night"  \n'
    beast = "00000099 05 n 01 beast 0 000 | a living thing that moves  \n"
    (wordnet / "data.noun").write_text("  1 licence  \n" + dog + beast)
    with gzip.open(dictd / "gcide.dict.dz", "wt") as file:
        file.write("Cat \\Cat\\, n. [OE.]\n   1. (Zool.) An animal that catches mice. --Someone.\n      [1913]\n")
    monkeypatch.setattr("sys.argv", ["make_corpus", "--root", str(tmp_path), "--out", str(tmp_path / "out")])
    assert make_corpus.main() == 0
    assert (tmp_path / "out" / "pairs.txt").read_text().splitlines() == [
        "dog, domestic dog\ta tame animal",
        "dog, domestic dog: a tame animal\tthe dog barked all night",
        "dog, domestic dog: a tame animal\tbeast: a living thing that moves",
        "beast\ta living thing that moves",
    ]
    assert "An animal that catches mice." in (tmp_path / "out" / "sentences.txt").read_text().splitlines()
    monkeypatch.setattr("sys.argv", ["make_corpus", "--root", str(tmp_path / "no"), "--out", str(tmp_path / "out")])
    assert make_corpus.main() == 2


def test_baselines_fit_the_texts_that_training_sees(corpus: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(text_baselines, "baselines", lambda texts: text_scores.baselines(texts, width=5))
    monkeypatch.setattr("sys.argv", ["text_baselines", str(corpus / "sentences.txt"), "--sts", str(corpus)])
    assert text_baselines.main() == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6


def test_the_grid_scores_every_cell_on_dev_alone(corpus: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(text_grid, "SIZES", (12,))
    monkeypatch.setattr(text_grid, "MOMENTA", (0.5,))
    short = ["--steps", "2", "--batch-size", "4", "--embedding-dim", "8", "--sts", str(corpus), "--out", str(corpus)]
    assert text_grid.main([str(corpus / "sentences.txt"), *short]) == 0
    found = json.loads((corpus / "grid.json").read_text())
    assert [(cell["negatives"], cell["dictionary_size"]) for cell in found] == [
        ("batch", 256),
        ("queue", 256),
        ("both", 256),
        ("both", 12),
    ]
    assert all("sts_dev" in cell and "sts_test" not in cell for cell in found)
