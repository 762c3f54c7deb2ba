"""Balancing against the plain rule: a draw for every pair of text and entry, a sum over all texts, a loop
over t."""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrlsynth.concepts.balance import (
    UNIT,
    counts,
    draws,
    expected_sizes,
    keep_mask,
    keep_probabilities,
    random_mask,
    solve_t,
)
from ctrlsynth.concepts.match import Array, Matches
from helpers import assert_refused

ROWS = st.lists(st.lists(st.integers(0, 11), max_size=6, unique=True), min_size=1, max_size=60)


def zipf_rows(texts: int, entries: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    weights = [1 / (i + 1) for i in range(entries)]
    return [
        list(dict.fromkeys(chance.choices(range(entries), weights, k=chance.randrange(5))))
        for _ in range(texts)
    ]


def plain_kept(rows: list[list[int]], c: list[int], t: float, chance: random.Random) -> list[bool]:
    """The reference's loop: independent draws over a text's entries, kept if any succeeds."""
    return [any([chance.random() < t / max(c[e], t) for e in row]) for row in rows]  # noqa: C419  (all draws are made)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, t=st.floats(0.01, 50))
def test_counts_and_probabilities_are_the_formula(rows: list[list[int]], t: float) -> None:
    matches = Matches.of(rows)
    c = counts([matches], 12)
    assert c.tolist() == [sum(e in row for row in rows) for e in range(12)]
    plain = [1 - math.prod(1 - t / max(int(c[e]), t) for e in row) for row in rows]
    assert keep_probabilities(matches, c, t).tolist() == pytest.approx(plain, abs=1e-12)


def test_one_draw_a_text_is_as_good_as_one_a_pair() -> None:
    """Shares of each text and of two pairs of texts over 4,000 repetitions of both: within four and a half
    standard errors."""
    rows = [*zipf_rows(40, 12, 3), [], [0]]
    matches, ids = Matches.of(rows), [f"t{i}" for i in range(len(rows))]
    c = counts([matches], 12)
    chance, again, t = random.Random(1), 4000, 3.0
    plain = np.array([plain_kept(rows, c.tolist(), t, chance) for _ in range(again)])
    ours = np.array([keep_mask(matches, c, t, draws(seed, ids)) for seed in range(again)])
    for a, b in ((plain, ours), (plain[:, :2].all(1, keepdims=True), ours[:, :2].all(1, keepdims=True))):
        share = (a.mean(0) + b.mean(0)) / 2
        assert (abs(a.mean(0) - b.mean(0)) <= 4.5 * np.sqrt(2 * share * (1 - share) / again) + 1e-12).all()
    assert not ours[:, -2].any()


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, a=st.floats(0.01, 50), b=st.floats(0.01, 50), seed=st.integers(0, 99))
def test_a_smaller_t_keeps_a_subset(rows: list[list[int]], a: float, b: float, seed: int) -> None:
    matches = Matches.of(rows)
    c = counts([matches], 12)
    u = draws(seed, map(str, range(len(rows))))
    small, large = (keep_mask(matches, c, t, u) for t in sorted((a, b)))
    assert not (small & ~large).any()


def pool(texts: int = 3000) -> tuple[list[list[int]], list[str]]:
    return zipf_rows(texts, 200, 7), [f"caption.{i}" for i in range(texts)]


def solved(parts: list[Matches], size: int) -> tuple[float, Array]:
    c = counts(parts, 200)

    def sizes(grid: Sequence[float]) -> list[int]:
        return [sum(s) for s in zip(*(expected_sizes(p, c, grid) for p in parts), strict=True)]

    return solve_t(sizes, c, size), c


def kept_ids(matches: Matches, c: Array, t: float, ids: list[str], seed: int) -> set[str]:
    mask = keep_mask(matches, c, t, draws(seed, ids))
    return {one for one, kept in zip(ids, mask, strict=True) if kept}


def test_order_and_parts_change_nothing() -> None:
    rows, ids = pool()
    whole = Matches.of(rows)
    t, c = solved([whole], 700)
    kept = kept_ids(whole, c, t, ids, 5)
    order = list(range(len(rows)))
    random.Random(2).shuffle(order)
    for size in (1, 7, 1000):
        cut = [order[i : i + size * 100] for i in range(0, len(order), size * 100)]
        parts = [Matches.of([rows[i] for i in part]) for part in cut]
        again, c2 = solved(parts, 700)
        some = (kept_ids(p, c2, t, [ids[i] for i in part], 5) for p, part in zip(parts, cut, strict=True))
        assert (again, set().union(*some)) == (t, kept)


def test_t_for_a_size_is_the_bisection() -> None:
    rows, ids = pool()
    matches = Matches.of(rows)
    some = sum(bool(r) for r in rows)
    last: set[str] = set()
    for size in (1, 10, 300, 1500, some - 1, some):
        t, c = solved([matches], size)
        low, high = 0.0, float(c.max())
        for _ in range(200):  # the plain way
            middle = (low + high) / 2
            low, high = (
                (middle, high)
                if keep_probabilities(matches, c, middle or 1e-300).sum() < size
                else (low, middle)
            )
        assert t == pytest.approx(high, rel=1e-6) or size == some
        assert keep_probabilities(matches, c, t).sum() == pytest.approx(size, rel=1e-6)
        kept = kept_ids(matches, c, t, ids, 0)
        assert last <= kept
        last = kept
    assert (len(last), sum(expected_sizes(matches, c, [float(c.max())]))) == (some, some * UNIT)


def test_what_cannot_be_is_said_in_one_line() -> None:
    rows, ids = pool(50)
    matches = Matches.of(rows)
    c = counts([matches], 200)
    some = sum(map(bool, rows))
    refused: dict[str, Callable[[], object]] = {
        "^t 0: above 0": lambda: keep_mask(matches, c, 0, draws(0, ids)),
        "^size 0: at least 1$": lambda: solved([matches], 0),
        f"^size 51 is more than the pool: {some} texts hold an entry": lambda: solved([matches], 51),
        "^no text holds an entry": lambda: solved([Matches.of([[], []])], 1),
        "^size 51 is more than the pool of 50 texts": lambda: random_mask(draws(0, ids), 51, 50),
    }
    for message, call in refused.items():
        assert_refused(call, message)
    assert not keep_mask(Matches.of([]), c, 1.0, draws(0, [])).size


def test_random_sampling_is_blind_to_entries() -> None:
    u = draws(3, map(str, range(20_000)))
    small, large = random_mask(u, 500, 20_000), random_mask(u, 5_000, 20_000)
    assert not (small & ~large).any()
    assert abs(int(large.sum()) - 5000) < 4.5 * (5000 * 0.75) ** 0.5


def test_a_million_captions() -> None:
    """Ids, five matches each, t for a size and the decision; `benchmarks/small_parts.py` measures the time."""
    chance = np.random.default_rng(0)
    entries = np.minimum(chance.zipf(1.3, 5_000_000), 400_000).astype(np.int32) - 1
    matches = Matches(np.arange(0, 5_000_001, 5, dtype=np.int64), entries)
    c = counts([matches], 400_000)
    t = solve_t(lambda grid: expected_sizes(matches, c, grid), c, 100_000)
    kept = int(keep_mask(matches, c, t, draws(0, map(str, range(1_000_000)))).sum())
    assert abs(kept - 100_000) < 4.5 * 100_000**0.5
