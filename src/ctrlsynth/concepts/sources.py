"""Gathers what `concepts build` puts into a bank: WordNet, the user's files, and symspellpy's counts where no
counts are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ..errors import UserError, unknown
from ..models.installed import package_file
from .bank import SOURCES, Scored, by_score, read_bank, synset_names
from .wikipedia import count_articles, count_views, pair_scores, read_counts, read_titles

MIN_COUNT, MIN_PMI, MIN_VIEWS = 100, 30.0, 70
STAND_IN_PMI = 8.0
"""symspellpy's corpus is too small for a PMI of 30 (its highest is 25.7). At 8 it gives 97,000 pairs;
MetaCLIP's bank holds 100,646."""
_PACKAGE, _WORDS, _PAIRS = (
    "symspellpy",
    "frequency_dictionary_en_82_765.txt",
    "frequency_bigramdictionary_en_243_342.txt",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to build from. `sources` are names of `bank.SOURCES`; thresholds are the least score that is
    taken.

    lists        bank files of any format       unigrams, bigrams   count files (`wikipedia.read_counts`)
    dumps        pages-articles dumps            pageviews, titles   see `wikipedia`
    min_pmi      None: 30, and 8 for the stand-in
    """

    sources: Sequence[str] = SOURCES
    lists: Sequence[Path] = ()
    unigrams: Sequence[Path] = ()
    bigrams: Sequence[Path] = ()
    dumps: Sequence[Path] = ()
    pageviews: Sequence[Path] = ()
    titles: Sequence[Path] = ()
    wiki: str = "en"
    min_count: int = MIN_COUNT
    min_pmi: float | None = None
    min_views: int = MIN_VIEWS


def gather(wanted: Wanted) -> list[tuple[str, Scored | pa.Table]]:
    """(source, entries with scores) in order of priority, for `bank.build`. Raises UserError for unknown
    sources, for files that no wanted source reads, and for unreadable ones."""
    for name in wanted.sources:
        if name not in SOURCES:
            raise unknown("source", name, SOURCES)
    if wanted.bigrams and not (wanted.unigrams or wanted.dumps):
        raise UserError("bigrams need the unigrams of the same corpus: PMI compares the two")
    _check_used(wanted)
    out: list[tuple[str, Scored | pa.Table]] = []
    if wanted.lists:
        out.append(("list", pa.concat_tables([read_bank(path) for path in wanted.lists])))
    if "numbers" in wanted.sources:
        out.append(("numbers", [(str(n), None) for n in range(100)]))
    if "wordnet" in wanted.sources:
        out.append(("wordnet", [(name, None) for name in synset_names()]))
    if {"unigrams", "bigrams"} & set(wanted.sources):
        out += [(name, found) for name, found in _ngrams(wanted) if name in wanted.sources]
    if "titles" in wanted.sources and (wanted.pageviews or wanted.titles):
        out.append(("titles", _titles(wanted)))
    return out


def _check_used(wanted: Wanted) -> None:
    """UserError for files that none of the wanted sources reads, and for titles alone without files."""
    for files, readers in (
        (wanted.lists, ["list"]),
        ([*wanted.unigrams, *wanted.dumps], ["unigrams", "bigrams"]),
        (wanted.bigrams, ["bigrams"]),
        ([*wanted.pageviews, *wanted.titles], ["titles"]),
    ):
        if files and not set(readers) & set(wanted.sources):
            raise UserError(
                f"{files[0]}: only the source {' or '.join(readers)} reads it, and it is not among "
                f"{', '.join(wanted.sources)}"
            )
    if list(wanted.sources) == ["titles"] and not (wanted.pageviews or wanted.titles):
        raise UserError("titles: come from files; name some with --pageviews or --titles")


def _ngrams(wanted: Wanted) -> list[tuple[str, Scored]]:
    stand_in = not (wanted.unigrams or wanted.dumps)
    words: dict[str, int] = {}
    pairs: dict[str, int] = {}
    unigrams, bigrams = list(wanted.unigrams), list(wanted.bigrams)
    if stand_in:
        what = "the stand-in for Wikipedia's counts"
        unigrams, bigrams = [package_file(_PACKAGE, _WORDS, what)], [package_file(_PACKAGE, _PAIRS, what)]
    for path in unigrams:
        for word, count in read_counts(path, 1):
            words[word] = words.get(word, 0) + count
    for path in bigrams:
        for pair, count in read_counts(path, 2):
            pairs[pair] = pairs.get(pair, 0) + count
    least = wanted.min_pmi if wanted.min_pmi is not None else STAND_IN_PMI if stand_in else MIN_PMI
    if not wanted.dumps:
        return [
            ("unigrams", by_score(words.items(), wanted.min_count)),
            ("bigrams", pair_scores(words, pairs.items(), least)),
        ]
    counted, found = count_articles(wanted.dumps)
    counted.update(words)
    scored = (
        pair_scores(counted, found.items(), least)
        if not pairs
        else pair_scores(counted, pairs.items(), least)
    )
    return [("unigrams", by_score(counted.items(), wanted.min_count)), ("bigrams", scored)]


def _titles(wanted: Wanted) -> Scored:
    listed = {title for path in wanted.titles for title in read_titles(path)}
    if not wanted.pageviews:
        return [(title, None) for title in sorted(listed)]
    views = by_score(count_views(wanted.pageviews, wanted.wiki).items(), wanted.min_views)
    return [(t, v) for t, v in views if not listed or t in listed]
