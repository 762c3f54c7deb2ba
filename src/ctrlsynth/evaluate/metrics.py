"""The papers' metrics on plain arrays: accuracy, top-k, mean per-class recall, recall@k, Delta_MTL,
intervals.

Every function is pure. Scores are similarities: higher is better. Of equal scores the lower index ranks
first, so that results do not depend on a sorting algorithm. Results are fractions 0..1 unless stated
otherwise."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

BLOCK_VALUES = 2**23
"""Similarities in memory at once (32 MB in float32): retrieval never builds the whole matrix."""


def top_k_hits(scores: Floats, labels: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Whether each row's label is among its k best classes. scores (N, C), labels (N,) in 0..C-1."""
    return np.asarray(_best_ranks(scores, labels[:, None]) < k)


def _best_ranks(scores: Floats, positives: Ints) -> Ints:
    """Rank (0 is best) of each row's best positive. scores (N, C), positives (N, P): columns of `scores`."""
    own = np.take_along_axis(scores, positives, axis=1)
    best = own.max(axis=1, keepdims=True)
    first = np.where(own == best, positives, scores.shape[1]).min(axis=1, keepdims=True)
    earlier = (scores == best) & (np.arange(scores.shape[1]) < first)
    return np.asarray((scores > best).sum(axis=1) + earlier.sum(axis=1))


def mean_per_class_recall(hits: npt.NDArray[np.bool_], labels: Ints) -> float:
    """The share of hits among the rows of a class, averaged without weights over the classes that occur."""
    counts = np.bincount(labels)
    right = np.bincount(labels, weights=hits.astype(np.float64))
    return float((right[counts > 0] / counts[counts > 0]).mean())


def recall_ranks(queries: Floats, gallery: Floats, positives: Sequence[Sequence[int]]) -> Ints:
    """Rank (0 is best) of each query's best positive in the gallery. queries (Q, D), gallery (G, D),
    positives: indices into the gallery, at least one per query. Memory: one block of `BLOCK_VALUES`
    similarities, never Q x G."""
    rows = max(1, BLOCK_VALUES // len(gallery))
    width = max(map(len, positives))
    padded = np.array([[*p, *[p[0]] * (width - len(p))] for p in positives], dtype=np.int64)
    blocks = [slice(start, start + rows) for start in range(0, len(queries), rows)]
    return np.concatenate([_best_ranks(queries[b] @ gallery.T, padded[b]) for b in blocks])


def delta_mtl(model: Mapping[str, float], baseline: Mapping[str, float]) -> tuple[float, int] | None:
    """Mean over the shared tasks of 100 * (M - B) / B, in percent (papers/002, section 4.1: five task
    averages), and the number of tasks; None if no task is shared. ValueError for a baseline of zero."""
    shared = [task for task in model if task in baseline]
    if zero := [task for task in shared if not baseline[task]]:
        raise ValueError(f"Delta_MTL: the baseline is 0 for {', '.join(zero)}")
    ratios = [100 * (model[t] - baseline[t]) / baseline[t] for t in shared]
    return (float(np.mean(ratios)), len(shared)) if shared else None


def bootstrap(
    values: Floats | npt.NDArray[np.bool_], groups: Ints | None = None, rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` (N,) over resampled rows; with `groups`, of the
    unweighted mean of the groups' means, rows resampled within their group. Deterministic by seed."""
    rng = np.random.default_rng(seed)
    data = np.asarray(values, dtype=np.float64)
    keys = np.zeros(len(data), dtype=np.int64) if groups is None else groups
    means = np.zeros(rounds)
    present = np.unique(keys)
    for key in present:
        rows = data[keys == key]
        if np.isin(rows, (0.0, 1.0)).all():  # hits: a resampled mean is a binomial draw
            means += rng.binomial(len(rows), rows.mean(), size=rounds) / len(rows)
        else:
            means += np.array([rows[rng.integers(0, len(rows), len(rows))].mean() for _ in range(rounds)])
    low, high = np.percentile(means / len(present), [2.5, 97.5])
    return float(low), float(high)


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95% t interval over runs that differ in seed only; the half width of one run
    is nan."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return float(data.mean()), float("nan")
    from scipy.stats import t

    half = float(t.ppf(0.975, len(data) - 1)) * float(data.std(ddof=1)) / float(np.sqrt(len(data)))
    return float(data.mean()), half
