"""Text files as token ids: one sentence a line, or two texts of one meaning with a tab between them.

N: texts   L: tokens of the longest
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

PAD, UNKNOWN = "[PAD]", "[UNK]"  # ids 0 and 1
CONTINUES = "##"  # begins the pieces that do not begin a word
LEAST = 2  # sentences to contrast
AT_ONCE = 20_000  # texts that the tokenizer's own objects, larger than ids, exist of


class TextError(ValueError):
    """A corpus or a score that cannot be used; the message names the remedy."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """Token ids of N texts, one after the other, and where each begins; memory is that of the tokens alone."""

    tokens: Tensor  # int32
    starts: Tensor  # (N + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, index_N: Tensor) -> Tensor:
        """(N, L) int64, padded with 0 to the longest of them."""
        start_N1, length_N1 = self.starts[index_N][:, None], (self.starts[index_N + 1] - self.starts[index_N])[:, None]
        place_1L = torch.arange(int(length_N1.max()))[None]
        inside_NL = place_1L < length_N1
        return torch.where(inside_NL, self.tokens[(start_N1 + place_1L) * inside_NL], 0).long()


@dataclasses.dataclass(frozen=True)
class Source:
    """One file: queries, keys (the same texts where a line has one), and ids, equal where the first text is."""

    queries: Texts
    keys: Texts
    ids_N: Tensor
    paired: bool


def read_lines(path: Path) -> list[tuple[str, ...]]:
    """The lines that are not empty, each as its one or two texts.

    Raises:
        TextError: no file of that name, fewer than two lines, or lines with several tabs.
    """
    if not path.is_file():
        raise TextError(f"{path}: no such file; give text files, one sentence a line")
    lines = [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if len(lines) < LEAST:
        raise TextError(f"{path}: {len(lines)} sentences, one a line; contrast needs others: give at least {LEAST}")
    if len({len(line) for line in lines}) > 1 or len(lines[0]) > 2:
        raise TextError(f"{path}: lines with different numbers of tabs; give one text a line, or two with one tab")
    return lines


def train_tokenizer(texts: Iterable[str], *, size: int) -> Tokenizer:
    """WordPiece of at most so many pieces, in lower case without accents; the same texts give the same pieces.

    The library numbers the pieces of one letter that continue a word as it meets them in a hash map, whose order is
    another in each training, and breaks ties between merges by these numbers. So they are stated here, in order.
    """
    texts = list(texts)
    tokenizer = _untrained({})
    letters = set(tokenizer.normalizer.normalize_str(" ".join(set().union(*texts))))
    stated = [PAD, UNKNOWN, *(CONTINUES + letter for letter in sorted(letters) if not letter.isspace())]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=stated, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _untrained(tokenizer.get_vocab())  # without special tokens, which it would look for in texts


def _untrained(pieces: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUES))
    steps = [normalizers.NFKD(), normalizers.Lowercase(), normalizers.StripAccents()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str], *, max_tokens: int, cut: bool = False, name: str = "") -> Texts:
    """Token ids; a text without any token gets the unknown one.

    Raises:
        TextError: a text of more than `max_tokens`, unless long ones are to be cut.
    """
    rows: list[list[int]] = []
    for first in range(0, len(texts), AT_ONCE):
        some = tokenizer.encode_batch_fast(list(texts[first : first + AT_ONCE]), add_special_tokens=False)
        rows += [encoding.ids or [1] for encoding in some]
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    if len(rows[longest]) > max_tokens and not cut:
        long = sum(len(row) > max_tokens for row in rows)
        raise TextError(
            f"{name}: {long} texts of more than {max_tokens} tokens (the longest, {len(rows[longest])}, is text "
            f"{longest + 1}): --max-tokens {len(rows[longest])}, or --cut to keep each one's beginning"
        )
    rows = [row[:max_tokens] for row in rows]
    tokens = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
    return Texts(tokens, torch.tensor([0, *map(len, rows)]).cumsum(0))


def make_source(tokenizer: Tokenizer, lines: list[tuple[str, ...]], *, max_tokens: int, cut: bool, name: str) -> Source:
    """A file's lines, ready for batches."""
    numbers: dict[str, int] = {}
    ids = torch.tensor([numbers.setdefault(line[0], len(numbers)) for line in lines])
    sides = [encode(tokenizer, side, max_tokens=max_tokens, cut=cut, name=name) for side in zip(*lines, strict=True)]
    return Source(sides[0], sides[-1], ids, paired=len(sides) == 2)
