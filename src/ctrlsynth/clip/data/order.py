"""The order in which the rows of a mix of sources are trained on: a pure function of seed, epoch and
position.

A source's rows come in laps. A lap shuffles the blocks (neighbours on disk), and then the rows within each
window of blocks: a shuffle with a bounded buffer that needs no buffer. An epoch takes a fixed number of rows
of every source and interleaves them at random. Batch `b` of an epoch is the rows at
positions `b * batch` to `(b + 1) * batch`, whichever process or worker reads them: resuming at any step, or
with another number of workers, gives the same batches, and no row is read for two ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Part:
    """One source of a mix: its number of rows, its blocks (see `rows.Shards`), and its ratio, if any."""

    rows: int
    blocks: Array
    ratio: float | None = None


def rows_an_epoch(parts: Sequence[Part]) -> list[int]:
    """How many rows an epoch takes from each source: without ratios all rows once; with ratios as many rows
    in total, in proportion to the ratios (largest remainder), so that a source may give only some of its
    rows, or some of them more than once."""
    if all(p.ratio is None for p in parts):
        return [p.rows for p in parts]
    total = sum(p.rows for p in parts)
    weights = [p.ratio or 0.0 for p in parts]
    wanted = [total * w / sum(weights) for w in weights]
    counts = [int(w) for w in wanted]
    for at in sorted(range(len(parts)), key=lambda i: counts[i] - wanted[i])[: total - sum(counts)]:
        counts[at] += 1
    return counts


class Order:
    """The order of a mix. `window`: rows that are shuffled among each other, divided over the sources in
    proportion to their size."""

    def __init__(self, parts: Sequence[Part], *, seed: int = 0, window: int = 8192) -> None:
        self.parts, self.seed = list(parts), seed
        self.counts = rows_an_epoch(parts)
        self.rows = sum(self.counts)
        self.windows = [max(1, round(window * n / self.rows)) for n in self.counts]
        self._lap = lru_cache(maxsize=2 * len(parts) + 2)(self._make_lap)
        self._window = lru_cache(maxsize=4 * len(parts) + 4)(self._make_window)
        self._deal = lru_cache(maxsize=2)(self._make_deal)

    def take(self, epoch: int, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(source, lap, row) at the positions `start` to `stop - 1` of an epoch. A lap is a source's own
        epoch; what is drawn for a row (caption, crop) depends on it."""
        dealt, before = self._deal(epoch)
        if dealt is None:
            which, seen = np.zeros(stop - start, dtype=np.int64), np.array([start])
        else:
            which = dealt[start:stop].astype(np.int64)
            chunk = start // _CHUNK
            seen = before[chunk] + np.bincount(dealt[chunk * _CHUNK : start], minlength=len(self.parts))
        out: list[tuple[int, int, int]] = []
        at_source = [int(n) + epoch * count for n, count in zip(seen, self.counts, strict=True)]
        for source in which.tolist():
            lap, at = divmod(at_source[source], self.parts[source].rows)
            _, starts = self._lap(source, lap)
            window = int(np.searchsorted(starts, at, side="right")) - 1
            out.append((source, lap, int(self._window(source, lap, window)[at - int(starts[window])])))
            at_source[source] += 1
        return out

    def _make_lap(self, source: int, lap: int) -> tuple[list[Array], Array]:
        """The blocks of every window, and the position at which each window begins."""
        blocks = self.parts[source].blocks
        order = self._generator(1, source, lap).permutation(len(blocks) - 1)
        sizes = np.diff(blocks)[order]
        begin = np.cumsum(sizes) - sizes
        first = np.flatnonzero(np.diff(begin // self.windows[source], prepend=-1))
        return np.split(order, first[1:]), begin[first]

    def _make_window(self, source: int, lap: int, number: int) -> Array:
        windows, _ = self._lap(source, lap)
        blocks = self.parts[source].blocks
        rows = np.concatenate([np.arange(blocks[b], blocks[b + 1]) for b in windows[number]])
        return self._generator(2, source, lap, number).permutation(rows)

    def _make_deal(self, epoch: int) -> tuple[Array | None, Array]:
        """The source at each position of an epoch, one byte per row, and the number of rows of each source
        before every chunk."""
        if len(self.parts) == 1:
            return None, np.zeros(0)
        kind = np.uint8 if len(self.parts) < 256 else np.uint16
        dealt = np.repeat(np.arange(len(self.parts), dtype=kind), self.counts)
        self._generator(3, epoch).shuffle(dealt)
        counts = [
            np.bincount(dealt[i : i + _CHUNK], minlength=len(self.parts))
            for i in range(0, len(dealt), _CHUNK)
        ]
        return dealt, np.cumsum([np.zeros(len(self.parts), dtype=np.int64), *counts], axis=0)

    def _generator(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed & (2**63 - 1), *numbers])


class Schedule:
    """The steps of a run: `batch` rows per step over all processes, of which each process takes `accumulate`
    micro-batches of `micro` rows. Drops the last incomplete batch of an epoch (other rows each time)."""

    def __init__(
        self, order: Order, batch: int, *, accumulate: int = 1, world: int = 1, together: bool = True
    ) -> None:
        self.order, self.batch, self.accumulate = order, batch, accumulate
        self.micro = batch // (accumulate * world)
        self.steps_an_epoch = order.rows // batch
        self._together = together

    def rows(self, step: int, rank: int, number: int) -> list[tuple[int, int, int]]:
        """The rows of one micro-batch. The rows of a step are sorted by their position on disk, so that a
        process reads few blocks; with `together=False` (a loss within the micro-batch only) they stay in
        random order."""
        epoch, at = divmod(step, self.steps_an_epoch)
        rows = self.order.take(epoch, at * self.batch, (at + 1) * self.batch)
        if self._together:
            rows.sort(key=lambda r: (r[0], r[2]))
        start = (rank * self.accumulate + number) * self.micro
        return rows[start : start + self.micro]
