"""Gathers what `concepts build` puts into a bank: WordNet, the user's files, and symspellpy's counts where no
counts are given. Reads what Wikipedia publishes:

- pageviews, hourly (`en Some_title 12 0`) and daily (`en.wikipedia Some_title 123 desktop 12 A1B11`).
- `*-all-titles[-in-ns0].gz`: one title a line, or namespace, tab, title.
- word and pair counts: `word count`, `count<TAB>word`, `first second count`, `count<TAB>first<TAB>second`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ..data.streams import text_lines
from ..errors import UserError, unknown
from ..models.installed import package_file
from .bank import SOURCES, Scored, by_score, read_bank, synset_names

HOURLY_LEAST = 50
"""Views in one hour below which MetaCLIP's script skips a line of an hourly file."""
MIN_COUNT, MIN_PMI, MIN_VIEWS = 100, 30.0, 70
_COUNT_FIELD = {3: 2, 4: 2, 5: 3, 6: 4}
"""Fields of a pageviews line -> where its count is: sums over days that others have made, hourly, daily
(older lines lack the page's number)."""
STAND_IN_PMI = 8.0
"""symspellpy's corpus is too small for a PMI of 30 (its highest is 25.7). At 8 it gives 97,000 pairs;
MetaCLIP's bank holds 100,646."""
_WORDS, _PAIRS = "frequency_dictionary_en_82_765.txt", "frequency_bigramdictionary_en_243_342.txt"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to build from. `sources` are names of `bank.SOURCES`; thresholds are the least score that is
    taken.

    lists        bank files of any format       unigrams, bigrams   count files (`read_counts`)
    pageviews    files of views                  titles              lists of titles
    min_pmi      None: 30, and 8 for the stand-in
    """

    sources: Sequence[str] = SOURCES
    lists: Sequence[Path] = ()
    unigrams: Sequence[Path] = ()
    bigrams: Sequence[Path] = ()
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
    if wanted.bigrams and not wanted.unigrams:
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
        (wanted.unigrams, ["unigrams", "bigrams"]),
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
    stand_in = not wanted.unigrams
    unigrams, bigrams = wanted.unigrams, wanted.bigrams
    if stand_in:
        what = "the stand-in for Wikipedia's counts"
        unigrams, bigrams = ([package_file("symspellpy", name, what)] for name in (_WORDS, _PAIRS))
    words, pairs = Counter[str](), Counter[str]()
    for counts, paths, length in ((words, unigrams, 1), (pairs, bigrams, 2)):
        for path in paths:
            for entry, count in read_counts(path, length):
                counts[entry] += count
    least = wanted.min_pmi if wanted.min_pmi is not None else STAND_IN_PMI if stand_in else MIN_PMI
    return [
        ("unigrams", by_score(words.items(), wanted.min_count)),
        ("bigrams", pair_scores(words, pairs.items(), least)),
    ]


def _titles(wanted: Wanted) -> Scored:
    listed = {title for path in wanted.titles for title in read_titles(path)}
    if not wanted.pageviews:
        return [(title, None) for title in sorted(listed)]
    views = by_score(count_views(wanted.pageviews, wanted.wiki).items(), wanted.min_views)
    return [(t, v) for t, v in views if not listed or t in listed]


def pair_scores(
    words: Mapping[str, int], pairs: Iterable[tuple[str, int]], least: float
) -> list[tuple[str, float]]:
    """(pair, PMI) of the pairs with at least `least`, the highest first.

    PMI = log2(c(a b) * N / (c(a) * c(b))) with N the sum of all words' counts: NLTK's
    `BigramAssocMeasures.pmi`, as MetaCLIP calls it. N bounds it: no pair of a corpus of N words has more than
    log2(N), so 30 asks for over a billion words. A pair with an uncounted word is left out, as there."""
    total = sum(words.values())
    scored = []
    for pair, count in pairs:
        a, b = (words.get(word, 0) for word in pair.partition(" ")[::2])
        if a and b and count > 0:
            scored.append((pair, math.log2(count) + math.log2(total) - math.log2(a) - math.log2(b)))
    return by_score(scored, least)


def read_counts(path: str | Path, words: int) -> Iterator[tuple[str, int]]:
    """(word or pair, count) of a count file whose entries have `words` words; the count is first or last.
    UserError names the line."""
    for number, line in enumerate(text_lines(path, errors="replace"), 1):
        fields = line.split()
        if len(fields) == words + 1 and (fields[-1].isdecimal() or fields[0].isdecimal()):
            first, tab, _ = line.partition("\t")
            last = fields[-1].isdecimal() and not (tab and first.strip().isdecimal())
            yield " ".join(fields[:-1] if last else fields[1:]), int(fields[-1] if last else fields[0])
        elif fields:
            raise UserError(
                f"{path}:{number}: expected {' '.join(['word'] * words)} and a count, found "
                f"{line.strip()[:60]!r}"
            )


def count_views(
    paths: Iterable[str | Path], wiki: str = "en", hourly_least: int = HOURLY_LEAST
) -> Counter[str]:
    """Views of each title over all files, with spaces for underscores. Titles with a colon are left out, as
    in MetaCLIP.

    Hourly files: lines of `wiki` and `wiki.m` with at least `hourly_least` views. Daily files:
    `wiki`.wikipedia, the day's total."""
    views: Counter[str] = Counter()
    hourly, daily = {wiki, f"{wiki}.m"}, f"{wiki}.wikipedia"
    for path in paths:
        known = False
        for line in text_lines(path, errors="replace"):
            fields = line.split()
            at = _COUNT_FIELD.get(len(fields))
            if at is None or not fields[at].isdecimal():
                continue
            project, title, count = fields[0], fields[1], int(fields[at])
            wanted = project in hourly and count >= hourly_least if len(fields) == 4 else project == daily
            known = known or wanted or len(fields) != 3
            if wanted and ":" not in title:
                views[title.replace("_", " ")] += count
        if not known:
            raise UserError(f"{path}: no line looks like a pageviews file's ('en Some_title 12 0')")
    return views


def read_titles(path: str | Path) -> Iterator[str]:
    """Titles of an all-titles list, namespace 0 only, with spaces for underscores."""
    for number, line in enumerate(text_lines(path, errors="replace")):
        title = line.rstrip("\r\n")
        namespace, tab, rest = title.partition("\t")
        if tab:
            title = rest if namespace == "0" else ""
        if title and not (number == 0 and title == "page_title"):
            yield title.replace("_", " ")
