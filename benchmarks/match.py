"""Captions a second: ours beside pyahocorasick, ahocorasick_rs and the plain rule, on one core, with up to
500,000 entries.

    python benchmarks/match.py [--captions 200000] [--entries 500000] [--out results.json]

Needs ctrlsynth[concepts] and pyahocorasick; ahocorasick_rs takes part where it is installed. The bank is
real: WordNet, symspellpy's words and pairs, numbers; when that is fewer than --entries, WordNet's other
words, with their case, and plurals fill it up. The captions are WordNet's glosses: a definition and its
examples, 75 letters on average. Every matcher gives the same sets, which is checked. Ours is timed from an
arrow column to arrow columns, spacing rule included; the others from Python strings to Python sets, spacing
rule included: what each would cost in a pipeline. Two threads: ours only, over two halves of the captions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

import harness
from ctrlsynth.concepts.bank import build
from ctrlsynth.concepts.gather import Wanted, gather
from ctrlsynth.concepts.match import Matcher, spaced
from ctrlsynth.lang import wordnet
from ctrlsynth.lang.words import plural

Sets = list[set[int]]


def bank(size: int) -> list[str]:
    """Real entries, at most `size`."""
    sources = gather(Wanted(sources=("numbers", "wordnet", "unigrams", "bigrams"), min_pmi=-99.0))
    sources.append(("list", [(lemma, None) for lemma in wordnet.lemma_names()]))
    sources.append(("list", [(word, None) for synset in wordnet.all_synsets() for word in synset.words]))
    sources.append(("list", [(plural(lemma), None) for lemma in wordnet.lemma_names("n")]))
    entries: list[str] = build(sources, size)[0]["entry"].to_pylist()
    return entries


def captions(count: int) -> list[str]:
    """WordNet's glosses in the table's order, again from the start when they are fewer."""
    texts = [synset.gloss for synset in wordnet.all_synsets()]
    return [texts[i % len(texts)] for i in range(count)]


def best(work: Callable[[], Any], again: int) -> float:
    """Processor seconds of the fastest of some runs."""
    times = []
    for _ in range(again):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return min(times)


def plain_rule(entries: Sequence[str]) -> Callable[[Sequence[str]], Sets]:
    """MetaCLIP's rule as it is written."""
    needles = [f" {entry} " for entry in entries]
    return lambda texts: [
        {i for i, needle in enumerate(needles) if needle in text} for text in map(spaced, texts)
    ]


def pyahocorasick(entries: Sequence[str]) -> Callable[[Sequence[str]], Sets]:
    """MetaCLIP's own faster way."""
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for number, entry in enumerate(entries):
        automaton.add_word(f" {entry} ", number)
    automaton.make_automaton()
    return lambda texts: [{number for _, number in automaton.iter(spaced(text))} for text in texts]


def ahocorasick_rs(entries: Sequence[str]) -> Callable[[Sequence[str]], Sets]:
    """The Rust automaton with Python bindings."""
    import ahocorasick_rs as rs

    automaton = rs.AhoCorasick(
        [f" {entry} " for entry in entries], implementation=rs.Implementation.ContiguousNFA
    )
    return lambda texts: [
        {found[0] for found in automaton.find_matches_as_indexes(spaced(t), overlapping=True)} for t in texts
    ]


PEERS = {
    "pyahocorasick": (pyahocorasick, 20_000),
    "ahocorasick_rs": (ahocorasick_rs, 20_000),
    "plain rule": (plain_rule, 40),
}
"""Name -> how it is made, and how many captions it is timed on."""


def peers(
    entries: Sequence[str], texts: Sequence[str], again: int = 3
) -> tuple[dict[str, float], dict[str, Sets]]:
    """Captions a second of each peer that is installed, and the sets that it found in the first captions."""
    rates, sets = {}, {}
    for name, (make, count) in PEERS.items():
        try:
            work = make(entries)
        except ModuleNotFoundError as error:
            print(f"{name}: not installed ({error.name})", file=sys.stderr)
            continue
        some = texts[:count]
        sets[name] = work(some)
        rates[name] = len(some) / best(
            lambda work=work, some=some: work(some), 1 if name == "plain rule" else again
        )  # type: ignore[misc]
    return rates, sets


def ours(matcher: Matcher, column: pa.Array, again: int = 5) -> dict[str, float]:
    """Captions a second on one thread (processor time) and on two (wall time, beside one thread's wall
    time)."""
    half = len(column) // 2
    halves = [column.slice(0, half), column.slice(half)]

    def wall(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(again):
            before = time.perf_counter()
            work()
            times.append(time.perf_counter() - before)
        return min(times)

    with ThreadPoolExecutor(2) as pool:
        two = wall(lambda: list(pool.map(matcher.match, halves)))
    one = wall(lambda: [matcher.match(part) for part in halves])
    rate = len(column) / best(lambda: matcher.match(column), again)
    return {"ours": rate, "two threads against one": one / two}


def main() -> None:
    """Prints a table, and writes it as JSON with --out."""
    parser = harness.parser(__doc__)
    parser.add_argument("--captions", type=int, default=200_000)
    parser.add_argument("--entries", type=int, default=500_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    entries, texts = bank(options.entries), captions(options.captions)
    started = time.perf_counter()
    Matcher(entries[:1000]).match(texts[:10])
    compiling = time.perf_counter() - started
    started = time.perf_counter()
    matcher = Matcher(entries)
    building = time.perf_counter() - started
    found = matcher.match(texts)
    rates, sets = peers(entries, texts)
    for name, expected in sets.items():
        assert [set(row) for row in found.lists()[: len(expected)]] == expected, name
    told: dict[str, Any] = {
        "entries": len(entries), "captions": len(texts), "letters a caption": round(sum(map(len,
        texts)) / len(texts), 1),
        "entries a caption": round(len(found.entries) / len(texts), 2),
        "compiling or loading s": round(compiling, 2),
        "building s": round(building, 2), "tables MB": round(matcher.nbytes / 1e6, 1),
        "captions a second": {k: round(v, 2 if k.startswith("two") else 0) for k, v in {**ours(matcher,
        pa.array(texts)), **rates}.items()},
    }  # fmt: skip
    speed = told["captions a second"]
    told["ours against"] = {name: round(speed["ours"] / speed[name], 1) for name in rates}
    print(json.dumps(told, indent=1))
    if options.out:
        options.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
