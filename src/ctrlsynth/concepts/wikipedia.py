"""What a concept bank takes from Wikipedia's dumps, read as they are downloaded: words and pairs from
pages-articles, titles by views.

- `pages-articles*.xml[.bz2|.gz]`: articles (namespace 0, no redirects), their wikitext stripped to words well
  enough to count them.
- pageviews, hourly (`en Some_title 12 0`) and daily (`en.wikipedia Some_title 123 desktop 12 A1B11`).
- `*-all-titles[-in-ns0].gz`: one title a line, or namespace, tab, title.
- counts made elsewhere: `word count`, `count<TAB>word`, `first second count`, `count<TAB>first<TAB>second`.

Everything streams. Memory: the distinct words, the titles that count; pairs go to disk in sorted runs when
they are many."""

from __future__ import annotations

import heapq
import html
import math
import re
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import IO

from ..data import streams
from ..errors import UserError

PAIRS_IN_MEMORY = 4_000_000
"""Distinct pairs that are held before a sorted run goes to disk: about 700 MB."""
HOURLY_LEAST = 50
"""Views in one hour below which MetaCLIP's script passes over a line of an hourly file."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_BLOCKS = "ref|math|chem|gallery|syntaxhighlight|source|code|timeline|score|hiero|imagemap|nowiki|pre"
_GONE = re.compile(
    rf"<!--.*?-->|<({_BLOCKS})\b[^<>]*/>|<({_BLOCKS})\b[^<>]*>.*?</\2\s*>|__[A-Z]+__|^=+[^\n]*=+[ "
    rf"\t]*$|^[{{|!][^\n]*$",
    re.S | re.M | re.I,
)
_TEMPLATE, _TABLE = re.compile(r"\{\{[^{}]*\}\}"), re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.S)
_LINK, _OUTSIDE = re.compile(r"\[\[([^\[\]]*)\]\]"), re.compile(r"\[(?:https?:)?//[^\s\]]*\s*([^\]]*)\]")
_TAG, _QUOTES = re.compile(r"<[^<>]*>"), re.compile("'{2,}")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_DEEPEST = 40


def plain_text(wikitext: str) -> str:
    """Wikitext without templates, tables, references, files, headings and markup; links as the words that
    they show."""
    text = _COMMENT.sub("", wikitext)
    text = _until_still(_TEMPLATE, "", text)
    text = _until_still(_TABLE, "\n", text)
    text = _GONE.sub("", text)
    for _ in range(_DEEPEST):
        text, changed = _LINK.subn(_shown, text)
        if not changed:
            break
    text = _OUTSIDE.sub(r"\1", text)
    return html.unescape(_QUOTES.sub("", _TAG.sub(" ", text)))


def _until_still(pattern: re.Pattern[str], by: str, text: str) -> str:
    for _ in range(_DEEPEST):
        text, changed = pattern.subn(by, text)
        if not changed:
            break
    return text


def _shown(link: re.Match[str]) -> str:
    target, _, shown = link[1].rpartition("|")
    name = target or shown
    if re.match(r"\s*[A-Za-z][\w -]*:\S", name) and not name.lstrip().startswith(":"):
        return ""  # a file, a category, another language
    return shown.lstrip(":")


def articles(path: str | Path) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of every article of a pages-articles dump. Raises UserError for a file that is none,
    or is cut."""
    stream = streams.open_stream(path)
    depth: list[ET.Element] = []
    page: dict[str, str] = {}
    try:
        for event, element in ET.iterparse(stream, ("start", "end")):
            tag = element.tag.rpartition("}")[2]
            if event == "start":
                if not depth and tag != "mediawiki":
                    raise UserError(f"{path}: begins with <{tag}>, a pages-articles dump with <mediawiki>")
                depth.append(element)
                continue
            depth.pop()
            if tag in ("title", "ns", "text", "redirect"):
                page[tag] = element.text or ""
            elif tag == "page":
                if page.get("ns", "0") == "0" and "redirect" not in page:
                    yield page.get("title", ""), page.get("text", "")
                page = {}
                depth[-1].clear()
    except ET.ParseError as error:
        raise UserError(f"{path}: not a whole XML dump ({error})") from error
    except streams.BROKEN as error:
        raise UserError(f"{path}: damaged or cut ({error})") from error
    finally:
        stream.close()


class PairCounts:
    """Counts of pairs of words (`first second`): held in memory up to a limit, then in sorted runs in a
    temporary file's folder."""

    def __init__(self, limit: int = PAIRS_IN_MEMORY) -> None:
        self._limit, self._counts = limit, Counter[str]()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._runs: list[Path] = []

    def update(self, pairs: Iterable[str]) -> None:
        self._counts.update(pairs)
        if len(self._counts) > self._limit:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="ctrlsynth-pairs-")
            run = Path(self._folder.name) / f"{len(self._runs)}.txt"
            with open(run, "w", encoding="utf-8") as out:
                out.writelines(f"{pair}\t{count}\n" for pair, count in sorted(self._counts.items()))
            self._runs.append(run)
            self._counts.clear()

    def items(self) -> Iterator[tuple[str, int]]:
        """Every pair with its count, sorted by pair."""
        runs: list[Iterable[tuple[str, int]]] = [self._read(run) for run in self._runs]
        merged = heapq.merge(*runs, sorted(self._counts.items()))
        for pair, group in groupby(merged, key=lambda item: item[0]):
            yield pair, sum(count for _, count in group)

    @staticmethod
    def _read(run: Path) -> Iterator[tuple[str, int]]:
        with open(run, encoding="utf-8") as lines:
            for line in lines:
                pair, _, count = line.rpartition("\t")
                yield pair, int(count)


def count_articles(
    paths: Iterable[str | Path], pairs: PairCounts | None = None
) -> tuple[Counter[str], PairCounts]:
    """Counts the words of all articles, and the pairs of words with nothing but blanks between them. Case
    stays as written."""
    words: Counter[str] = Counter()
    pairs = pairs or PairCounts()
    for path in paths:
        for _, wikitext in articles(path):
            text = plain_text(wikitext)
            found = list(_WORD.finditer(text))
            words.update(m[0] for m in found)
            gaps = pairwise(found)
            pairs.update(f"{a[0]} {b[0]}" for a, b in gaps if text[a.end() : b.start()].strip(" ") == "")
    return words, pairs


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
        first, _, second = pair.partition(" ")
        a, b = words.get(first, 0), words.get(second, 0)
        if a and b and count > 0:
            score = math.log2(count) + math.log2(total) - math.log2(a) - math.log2(b)
            if score >= least:
                scored.append((pair, score))
    return sorted(scored, key=lambda item: (-item[1], item[0]))


def read_counts(path: str | Path, words: int) -> Iterator[tuple[str, int]]:
    """(word or pair, count) of a count file whose entries have `words` words; the count stands first or last.
    UserError names the line."""
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) == words + 1 and (fields[-1].isdecimal() or fields[0].isdecimal()):
            last = fields[-1].isdecimal() and not (
                line.partition("\t")[0].strip().isdecimal() and "\t" in line
            )
            yield " ".join(fields[:-1] if last else fields[1:]), int(fields[-1] if last else fields[0])
        else:
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
        for line in _lines(path):
            fields = line.split()
            if len(fields) == 4 and fields[2].isdecimal():
                known = True
                if fields[0] in hourly and ":" not in fields[1] and int(fields[2]) >= hourly_least:
                    views[fields[1].replace("_", " ")] += int(fields[2])
            elif len(fields) in (5, 6) and fields[-2].isdecimal():  # older daily lines lack the page's number
                known = True
                if fields[0] == daily and ":" not in fields[1]:
                    views[fields[1].replace("_", " ")] += int(fields[-2])
            elif (
                len(fields) == 3 and fields[0] == daily and fields[2].isdecimal()
            ):  # sums over days that others have made
                known = True
                if ":" not in fields[1]:
                    views[fields[1].replace("_", " ")] += int(fields[2])
        if not known:
            raise UserError(f"{path}: no line looks like a pageviews file's ('en Some_title 12 0')")
    return views


def read_titles(path: str | Path) -> Iterator[str]:
    """Titles of an all-titles list, namespace 0 only, with spaces for underscores."""
    for number, line in enumerate(_lines(path)):
        title = line.rstrip("\r\n")
        if "\t" in title:
            namespace, _, title = title.partition("\t")
            if namespace != "0":
                continue
        if title and not (number == 0 and title == "page_title"):
            yield title.replace("_", " ")


def _lines(path: str | Path) -> Iterator[str]:
    """Lines of text; a line that is not UTF-8 (there are some in pageviews files) is read with U+FFFD in the
    places."""
    stream: IO[bytes] = streams.open_stream(path)
    try:
        for number, line in enumerate(stream):
            yield line.decode("utf-8-sig" if number == 0 else "utf-8", "replace")
    except streams.BROKEN as error:
        raise UserError(f"{path}: damaged or cut ({error})") from error
    finally:
        stream.close()
