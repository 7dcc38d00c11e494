"""How good sentence embeddings are: agreement with people about similarity, and finding the other crop of a text.

Every method is a function from pairs of texts to similarities and from queries and documents to a matrix of scores;
methods that embed get both from `Embedder`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import sparse, stats
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize
from text_corpus import TextError

WORD = r"(?u)\b\w+\b"
BM25_K1, BM25_B = 1.2, 0.75
SMOOTHING = 1e-3  # a of a / (a + p), Arora et al. 2017


class Method(Protocol):
    """A way to say how alike texts are."""

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """(queries, documents); larger is more alike."""

    def pairs(self, one: Sequence[str], other: Sequence[str]) -> np.ndarray:
        """One similarity for each pair."""


class Embedder:
    """Cosine similarity of embeddings, dense or sparse."""

    def __init__(self, embed: Callable[[Sequence[str]], np.ndarray | sparse.spmatrix]) -> None:
        self.embed = embed

    def _unit(self, texts: Sequence[str]) -> np.ndarray | sparse.csr_matrix:
        rows = self.embed(texts)
        if sparse.issparse(rows):
            norm = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).clip(min=1e-9)
            return sparse.csr_matrix(rows.multiply(1 / norm))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-9)

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """As `Method`."""
        found = self._unit(queries) @ self._unit(documents).T
        return found.toarray() if sparse.issparse(found) else found

    def pairs(self, one: Sequence[str], other: Sequence[str]) -> np.ndarray:
        """As `Method`."""
        a, b = self._unit(one), self._unit(other)
        product = a.multiply(b) if sparse.issparse(a) else a * b
        return np.asarray(product.sum(axis=1)).ravel()


class BM25:
    """Okapi BM25; for a pair, the mean of both directions, each relative to a text's score for itself."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.counter = CountVectorizer(token_pattern=WORD)
        counts = self.counter.fit_transform(texts)
        frequency = np.asarray((counts > 0).sum(axis=0)).ravel()
        self.idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
        self.mean_length = counts.sum() / len(texts)

    def _weights(self, documents: Sequence[str]) -> sparse.csr_matrix:
        counts = self.counter.transform(documents).astype(float).tocoo()
        length = np.asarray(counts.sum(axis=1)).ravel()[counts.row] / self.mean_length
        tamed = counts.data * (BM25_K1 + 1) / (counts.data + BM25_K1 * (1 - BM25_B + BM25_B * length))
        return sparse.csr_matrix((tamed * self.idf[counts.col], (counts.row, counts.col)), shape=counts.shape)

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """As `Method`."""
        return (self.counter.transform(queries).astype(float) @ self._weights(documents).T).toarray()

    def pairs(self, one: Sequence[str], other: Sequence[str]) -> np.ndarray:
        """As `Method`."""
        return (self._directed(one, other) + self._directed(other, one)) / 2

    def _directed(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        counts = self.counter.transform(queries).astype(float)
        own = np.asarray(counts.multiply(self._weights(queries)).sum(axis=1)).ravel()
        return np.asarray(counts.multiply(self._weights(documents)).sum(axis=1)).ravel() / own.clip(min=1e-9)


def baselines(texts: Sequence[str], *, width: int = 300, seed: int = 0) -> dict[str, Method]:
    """Methods without contrast, fitted to the same texts; word vectors are random or learned by LSA."""
    tfidf = TfidfVectorizer(token_pattern=WORD, dtype=np.float32)
    weighted = tfidf.fit_transform(texts)
    words = tfidf.vocabulary_
    counter = CountVectorizer(token_pattern=WORD, vocabulary=words)
    share = np.asarray(counter.transform(texts).sum(axis=0)).ravel().astype(float)
    smooth = sparse.diags(SMOOTHING / (SMOOTHING + share / share.sum()))
    drawn = np.random.default_rng(seed).standard_normal((len(words), width))
    learned = TruncatedSVD(width, n_iter=2, random_state=seed).fit(weighted).components_.T
    learned = normalize(learned)
    return {
        "TF-IDF": Embedder(tfidf.transform),
        "BM25": BM25(texts),
        "averaged random vectors": Embedder(lambda some: counter.transform(some) @ drawn),
        "averaged random vectors, SIF weights": Embedder(lambda some: counter.transform(some) @ smooth @ drawn),
        "averaged learned vectors": Embedder(lambda some: counter.transform(some) @ learned),
        "averaged learned vectors, SIF weights": Embedder(lambda some: counter.transform(some) @ smooth @ learned),
    }


def read_sts(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Sentence, sentence and the people's score, 0 to 5, from a file of comma-separated values.

    Raises:
        TextError: no such file, or rows of another form.
    """
    if not path.is_file():
        raise TextError(f"{path}: no such file; --sts takes the folder of stsb-en-dev.csv and stsb-en-test.csv")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    try:
        return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])
    except (IndexError, ValueError):
        raise TextError(f"{path}: expected rows of sentence, sentence, score") from None


def spearman(method: Method, sts: tuple[list[str], list[str], np.ndarray]) -> float:
    """Rank correlation with the people's scores, times 100."""
    return 100 * float(stats.spearmanr(method.pairs(sts[0], sts[1]), sts[2])[0])


def held_out_crops(texts: Sequence[str], *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Two crops of each text, each of 40 to 70 % of its words, drawn apart: queries and documents."""
    generator = np.random.default_rng(seed)

    def crop(text: str) -> str:
        words = text.split()
        count = max(1, round(len(words) * generator.uniform(0.4, 0.7)))
        first = generator.integers(0, len(words) - count + 1)
        return " ".join(words[first : first + count])

    return [crop(text) for text in texts], [crop(text) for text in texts]


def retrieval(method: Method, queries: Sequence[str], documents: Sequence[str]) -> tuple[float, float]:
    """R@1 and mean reciprocal rank, both 0 to 100, of each query's own document; a tie counts as a loss."""
    scores = method.scores(queries, documents)
    own = scores.diagonal()[:, None]
    rank = (scores >= own).sum(axis=1)
    return 100 * float((rank == 1).mean()), 100 * float((1 / rank).mean())
