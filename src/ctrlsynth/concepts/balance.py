"""Balancing (METHODS, section 2): few texts of each frequent concept, all texts of the rare ones. Pure
functions over `Matches`.

With c[e] texts that hold entry e and a threshold t, p[e] = t / max(c[e], t), and a text is kept if any of
independent draws over its entries succeeds: P(keep) = 1 - prod(1 - p[e]). A text without an entry is dropped.

**One draw a text.** The reference draws once for every pair of text and entry. All those draws are
independent, so whether a text is kept is independent of every other text, with probability P. One uniform u a
text and `u < P` gives the same joint distribution, and more: P grows with t, so with the same u a smaller t
keeps a subset of what a larger t keeps. u hangs on (seed, caption's id) alone, so the subset depends neither
on the order of the texts nor on the number of parts.

**t for a wanted size M.** Sum of P over all texts grows with t, so it is bracketed: in four rounds every part
returns its expected size for a grid of 17 t. Sizes are whole numbers of 2**-32 texts, so that adding them up
in another order changes nothing, not even the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..errors import UserError
from ..sample import draw
from .matches import Array, Matches

UNIT = 1 << 32
"""Expected sizes are counted in units of 1 / UNIT texts."""
ROUNDS, POINTS = 4, 17


def counts(parts: Iterable[Matches], entries: int) -> Array:
    """c: how many texts of all parts hold each of the bank's `entries` entries. int64. Duplicates should be
    out by now."""
    total = np.zeros(entries, np.int64)
    for part in parts:
        total += np.bincount(part.entries, minlength=entries)
    return total


def keep_probabilities(matches: Matches, counts: Array, t: float) -> Array:
    """P(keep) of each text, in 0..1; 0 for a text without an entry. Never falls when t grows, rounding
    included."""
    check_t(t)
    miss = 1.0 - t / np.maximum(counts, t)
    lengths = matches.lengths()
    some = lengths > 0
    out = np.zeros(len(lengths))
    if len(matches.entries):
        out[some] = 1.0 - np.multiply.reduceat(miss[matches.entries], matches.offsets[:-1][some])
    return out


def expected_sizes(matches: Matches, counts: Array, grid: Sequence[float]) -> list[int]:
    """What one part adds to the expected size at each t of the grid, in units of 1 / UNIT texts. The engines'
    share of `solve_t`."""
    return [int((keep_probabilities(matches, counts, t) * UNIT).astype(np.int64).sum()) for t in grid]


def solve_t(sizes: Callable[[Sequence[float]], Sequence[int]], counts: Array, size: int) -> float:
    """The t at which `size` texts are expected to be kept.

    `sizes(grid)` gives the expected sizes of the whole pool: `expected_sizes` of every part, added up. It is
    called four times. The answer lies between size / (entries that occur), since a concept keeps t texts at
    most, and the largest count, where all are kept. Raises UserError for a size under 1, a pool without
    matches, and a size above the pool."""
    check_size(size)
    seen = int(np.count_nonzero(counts))
    if seen == 0:
        raise UserError("no text holds an entry of the bank: nothing to balance; is it the right bank?")
    target = size * UNIT
    low, high = size / seen, float(counts.max())
    for number in range(ROUNDS):
        grid = np.geomspace(min(low, high), high, POINTS)
        grid[-1] = high
        found = list(sizes(grid.tolist()))
        if number == 0 and found[-1] < target:
            raise UserError(
                f"size {size:,} is more than the pool: {found[-1] // UNIT:,} texts hold an entry of the bank"
            )
        at = max(i for i, value in enumerate(found) if value <= target or i == 0)
        if at == POINTS - 1:
            return high
        low, high = float(grid[at]), float(grid[at + 1])
    below, above = found[at], found[at + 1]
    return low + (high - low) * max(0, target - below) / (above - below) if above > below else low


def draws(seed: int, ids: Iterable[str]) -> Array:
    """u of each text, in [0, 1): a hash of the seed and the caption's id, and of nothing else."""
    return np.fromiter((draw(seed, one, "balance") for one in ids), np.float64)


def keep_mask(matches: Matches, counts: Array, t: float, u: Array) -> Array:
    """Which texts stay, with `u` from `draws`. Boolean. What a smaller t keeps, a larger one keeps too."""
    return np.asarray(u < keep_probabilities(matches, counts, t))


def random_mask(u: Array, size: int, pool: int) -> Array:
    """The paper's ablation: every text of the `pool` is as likely as any other, whatever it holds. A smaller
    size is a subset of a larger.

    Raises UserError for a size under 1 or above the pool.
    """
    check_size(size)
    if size > pool:
        raise UserError(f"size {size:,} is more than the pool of {pool:,} texts")
    return np.asarray(u < size / pool)


def check_t(t: float) -> None:
    """Raises UserError for a threshold that is not above 0."""
    if not t > 0 or t == float("inf"):
        raise UserError(
            f"t {t:g}: above 0; SynthCLIP's sample uses 10, MetaCLIP 20,000 for 400 million texts"
        )


def check_size(size: int) -> None:
    """Raises UserError for a wanted size under 1."""
    if size < 1:
        raise UserError(f"size {size}: at least 1")
