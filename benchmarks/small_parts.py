"""Speed of the parts that every row passes through, each beside its goal.

    python benchmarks/small_parts.py

Best of several repeats, in processor time: the realizer, the matcher of tags and texts, opening WordNet, and
balancing a million captions. `wordnet_tagger.py` and `match.py` measure the tagger and the concept
matcher."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import harness
from ctrlsynth.concepts.balance import counts, draws, expected_sizes, keep_mask, solve_t
from ctrlsynth.concepts.match import Matches
from ctrlsynth.lang import wordnet
from ctrlsynth.lang.matching import rules as matching
from ctrlsynth.models.base import Request
from ctrlsynth.models.registry import load
from ctrlsynth.sample import Tags

OBJECTS = ("dog", "ball", "sofa", "tree")
PHRASES = (*OBJECTS, "red ball", "green sofa", "dog on sofa", "dog playing with ball")
TEXT = "A brown dog plays with a red ball on the green sofa"


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Returns the least processor seconds of several calls."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        found.append(time.process_time() - started)
    return min(found)


def balance() -> int:
    """Balances a million captions of five matches each to 100,000."""
    chance = np.random.default_rng(0)
    entries = np.minimum(chance.zipf(1.3, 5_000_000), 400_000).astype(np.int32) - 1
    matches = Matches(np.arange(0, 5_000_001, 5, dtype=np.int64), entries)
    counted = counts([matches], 400_000)
    t = solve_t(lambda grid: expected_sizes(matches, counted, grid), counted, 100_000)
    return int(keep_mask(matches, counted, t, draws(0, map(str, range(1_000_000)))).sum())


def main() -> None:
    """Prints a line per part."""
    harness.parser(__doc__).parse_args()
    tags = Tags(("dog", "sofa", "lamp"), ("brown dog", "red sofa"), ("dog on sofa",))
    requests = [Request("", tags, seed=n) for n in range(4000)]
    writer = load("realizer", "llm")
    rate = len(requests) / best(lambda: writer.generate(requests))
    print(f"realizer           {rate:10,.0f} texts/s (goal 20,000)")
    rows = best(lambda: [matching.in_text(PHRASES, TEXT, "lemma", OBJECTS) for _ in range(500)]) / 500
    print(f"matcher            {rows * 1e6:10,.0f} us per row (goal: at most 120)")
    print(f"opening WordNet    {best(wordnet._Table) * 1e3:10,.0f} ms (goal: at most 100)")
    print(f"balance, 1 million {best(balance, 1):10,.1f} s (goal: at most 20)")


if __name__ == "__main__":
    main()
