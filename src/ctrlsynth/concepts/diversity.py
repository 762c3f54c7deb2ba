"""How varied captions are (SynthCLIP, section 3.1 and appendix B.4: why captions need concepts): distinct
n-grams, self-similarity, concepts a caption. Measured on a sample, drawn so that the same captions give the
same numbers."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..sample import hash_int
from .bank import load_bank
from .corpus import open_corpus, read
from .match import Matcher

SAMPLE = 2_000
"""Captions that are measured. Distinct n-grams fall with their number, so only equal numbers compare."""
PAIRS = 20_000
"""Pairs of captions whose similarity is measured."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Diversity:
    """captions      all of them; `sample` is how many the numbers below are of
    words         mean number a caption
    vocabulary    different words in the sample
    distinct      for n = 1, 2, 3: different runs of n words by all runs of n words, 0..1; higher is more
                  varied
    repeated      share of the captions that are equal to an earlier one
    similarity    mean Jaccard index of the words of two captions drawn at random, 0..1; lower is more varied
    self_bleu     mean share of a caption's runs of 4 words that another caption of the sample has too, 0..1;
                  lower is more varied
    openings      share of the captions that begin with the most frequent three words
    concepts      mean entries of the bank that a caption holds; None without a bank
    """

    captions: int
    sample: int
    words: float
    vocabulary: int
    distinct: tuple[float, float, float]
    repeated: float
    similarity: float
    self_bleu: float
    openings: float
    concepts: float | None = None


def measure_place(place: Path, bank: Path | None = None) -> Diversity:
    """Diversity of the captions of a run (what it wrote; name its folder `balance` for those that went on) or
    of caption files. With a bank the entries that each holds are counted. Raises UserError where there are
    none."""
    texts = (
        text for part in open_corpus([place]) for batch in read(part) for text in batch.texts.to_pylist()
    )
    found = measure(texts, Matcher(load_bank(bank).entries) if bank is not None else None)
    if found is None:
        raise UserError(f"{place}: holds no captions")
    return found


def measure(
    captions: Iterable[str], matcher: Matcher | None = None, sample: int = SAMPLE, seed: int = 0
) -> Diversity | None:
    """The numbers of a caption set, None for an empty one. Streams; memory is the sample and a number a
    caption."""
    chance = random.Random(seed)
    chosen: list[str] = []
    seen: set[int] = set()
    total = 0
    for total, text in enumerate(captions, 1):
        seen.add(hash_int(0, text, "caption"))
        if len(chosen) < sample:
            chosen.append(text)
        elif (at := chance.randrange(total)) < sample:
            chosen[at] = text
    if not chosen:
        return None
    words = [tuple(_WORD.findall(text.lower())) for text in chosen]
    pairs = [chance.sample(range(len(words)), 2) for _ in range(PAIRS)] if len(words) > 1 else []
    sets = [frozenset(w) for w in words]
    likeness = [len(sets[a] & sets[b]) / (len(sets[a] | sets[b]) or 1) for a, b in pairs]
    openings = Counter(w[:3] for w in words)
    return Diversity(
        total, len(chosen), sum(map(len, words)) / len(words), len(frozenset().union(*sets)),
        (_distinct(words, 1), _distinct(words, 2), _distinct(words, 3)), 1 - len(seen) / total,
        sum(likeness) / (len(likeness) or 1), _shared(words), max(openings.values()) / len(words),
        float(matcher.match(chosen).lengths().mean()) if matcher is not None else None,
    )  # fmt: skip


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    runs = [run for words in texts for run in _runs(words, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _shared(texts: Sequence[Sequence[str]], n: int = 4) -> float:
    """Mean share of a text's runs of n words that another text has."""
    seen = Counter(run for words in texts for run in set(_runs(words, n)))
    shares = [sum(seen[run] > 1 for run in runs) / len(runs) for words in texts if (runs := _runs(words, n))]
    return sum(shares) / len(shares) if shares else 0.0
