"""Which entries of a bank each text holds: plain arrays, in rows. What `match.py` makes, and `balance.py` and
`coverage.py` read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""`map`, or the same on many machines: over parts, for a decision that needs the whole set."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The entries of n texts. Text i holds `entries[offsets[i] : offsets[i + 1]]`, each entry once, in the
    order of where they begin.

    offsets   int64, n + 1 of them, the first 0
    entries   int32, numbers of entries in their bank
    """

    offsets: Array
    entries: Array

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Matches:
        """From one sequence of entry numbers a text."""
        listed = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in listed], dtype=np.int64)]).astype(
            np.int64
        )
        return cls(offsets, np.concatenate(listed) if listed else np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lists(self) -> list[list[int]]:
        """One list of entry numbers a text."""
        flat, ends = self.entries.tolist(), self.offsets.tolist()
        return [flat[a:b] for a, b in pairwise(ends)]

    def lengths(self) -> Array:
        """How many entries each text holds."""
        return np.diff(self.offsets)

    def select(self, mask: Array) -> Matches:
        """The texts for which the boolean `mask` is true, in their order."""
        lengths = self.lengths()
        offsets = np.concatenate([[0], np.cumsum(lengths[mask], dtype=np.int64)]).astype(np.int64)
        return Matches(offsets, self.entries[np.repeat(mask, lengths)])
