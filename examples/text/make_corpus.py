"""Sentences and natural pairs from WordNet's definitions, GCIDE and, if wanted, STS-B's training sentences (no scores).

    apt-get download wordnet-base dict-gcide && for f in *.deb; do dpkg-deb -x $f debian; done
    python examples/text/make_corpus.py --root debian --sts STS_FOLDER --out corpus

Writes `sentences.txt` (one a line), `pairs.txt` (two texts of one meaning, or of one thing and its kind, with a tab
between them) and, with --sts, `captions.txt`. The default root, /, finds the packages where they are installed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WORDS = range(3, 41)  # of a sentence
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
HYPERNYM, INSTANCE_OF, SIMILAR = "@", "@i", "&"


class Synset(NamedTuple):
    """Words of one meaning, its definition, example sentences, and (kind of pointer, key) of its neighbours."""

    words: list[str]
    definition: str
    examples: list[str]
    pointers: list[tuple[str, str]]

    @property
    def entry(self) -> str:
        """Words and definition, as a dictionary prints them."""
        return f"{', '.join(self.words)}: {self.definition}"


def main() -> int:
    """Write the files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="under which usr/share/{wordnet,dictd} lie")
    parser.add_argument("--sts", type=Path, default=None, help="folder with stsb-en-train.csv")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    share = arguments.root / "usr" / "share"
    missing = [p for p in (share / "wordnet" / "data.noun", share / "dictd" / "gcide.dict.dz") if not p.is_file()]
    if missing:
        print(f"make_corpus: no {missing[0]}: apt-get download wordnet-base dict-gcide, then --root", file=sys.stderr)
        return 2
    synsets = read_wordnet(share / "wordnet")
    plain = [text for synset in synsets.values() for text in (synset.definition, *synset.examples)]
    files = {
        "sentences.txt": [*plain, *gcide_sentences(share / "dictd" / "gcide.dict.dz")],
        "pairs.txt": [f"{one}\t{other}" for one, other in wordnet_pairs(synsets)],
    }
    if arguments.sts is not None:
        with open(arguments.sts / "stsb-en-train.csv", encoding="utf-8", newline="") as file:
            files["captions.txt"] = [sentence for row in csv.reader(file) for sentence in row[:2]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        kept = [line for line in dict.fromkeys(map(str.strip, lines)) if "\t" in line or len(line.split()) in WORDS]
        (arguments.out / name).write_text("\n".join(kept) + "\n", encoding="utf-8")
        print(f"{arguments.out / name}: {len(kept)} lines")
    return 0


def read_wordnet(folder: Path) -> dict[str, Synset]:
    """Every synset by its key, a letter for the part of speech and its place in the file (the format is wndb(5))."""
    synsets = {}
    for name in PARTS_OF_SPEECH:
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            data, _, gloss = line.partition(" | ")
            field = data.split()
            end = 4 + 2 * int(field[3], 16)  # of the words, then comes the number of pointers
            words = [re.sub(r"\(.*\)", "", word).replace("_", " ") for word in field[4:end:2]]
            pointers = [field[end + 1 + 4 * i : end + 4 + 4 * i] for i in range(int(field[end]))]
            definition = re.split(r';?\s*"', gloss, maxsplit=1)[0].strip(" ;:")
            neighbours = [(kind, part.replace("s", "a") + place) for kind, place, part in pointers]
            synsets[name[0] + field[0]] = Synset(words, definition, re.findall(r'"([^"]+)"', gloss), neighbours)
    return synsets


def wordnet_pairs(synsets: dict[str, Synset]) -> Iterator[tuple[str, str]]:
    """Words and definition; entry and example; entry and that of its kind, or of a similar adjective."""
    for synset in synsets.values():
        yield ", ".join(synset.words), synset.definition
        for example in synset.examples:
            yield synset.entry, example
        for kind, key in synset.pointers:
            if kind in (HYPERNYM, INSTANCE_OF, SIMILAR) and key in synsets:
                yield synset.entry, synsets[key].entry


def gcide_sentences(path: Path) -> Iterator[str]:
    """Definitions and quotations, without pronunciation, etymology, numbers and sources."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        entries = re.split(r"\n(?=\S)", file.read())
    for entry in entries:
        body = re.sub(r"\[[^\]]*\]", " ", entry.partition("\n")[2])
        for paragraph in re.split(r"\n\s*\n", body):
            text = re.sub(r"\s+", " ", paragraph)
            text = re.sub(r"\([A-Z][\w&., ]*\.\)|--\s*[A-Z][\w. ]*$|[{}\\|`*\"]", "", text)
            text = re.sub(r"^\W*(\d+\.|\([a-z]\))\s*", "", text)
            yield from re.split(r"(?<=[.;?!])\s+|; as,\s*", text)


if __name__ == "__main__":
    sys.exit(main())
