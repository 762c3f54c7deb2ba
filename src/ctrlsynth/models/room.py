"""How many images a model paints at once: fewer after it ran out of memory, more again after a while (2c)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import ModelError

_Row = TypeVar("_Row")
_Answer = TypeVar("_Answer")
PATIENCE = 8
"""Calls that must succeed before a larger one is tried; twice as many after each try that failed, since
another process on the GPU may be what took the memory, and it may stay."""
_MOST_PATIENCE = 4096


class Room:
    """The size of the next call: halved when memory runs out, doubled after some successes, never above
    `most`."""

    def __init__(self, most: int, patience: int = PATIENCE) -> None:
        self.most = self.size = most
        self._patience = patience
        self._successes = 0
        self._grew = False

    def run(
        self, rows: Sequence[_Row], call: Callable[[Sequence[_Row]], Sequence[_Answer]]
    ) -> list[_Answer | None]:
        """`call` over all rows in pieces that fit, one answer a row in their order; None for a row that does
        not fit even alone. Any fault but `ModelError("out_of_memory")` passes."""
        done: list[_Answer | None] = []
        while len(done) < len(rows):
            piece = rows[len(done) : len(done) + self.size]
            try:
                answers = call(piece)
            except ModelError as error:
                if error.reason != "out_of_memory":
                    raise
                if len(piece) == 1:
                    done.append(None)
                self._shrink(len(piece))
            else:
                done += answers
                self._grow(len(piece))
        return done

    def _shrink(self, tried: int) -> None:
        self.size = max(1, tried // 2)
        self._successes = 0
        if self._grew:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._grew = False

    def _grow(self, tried: int) -> None:
        self._grew &= tried < self.size
        if self.size == self.most or tried < self.size:  # a short last piece proves nothing
            return
        self._successes += 1
        if self._successes >= self._patience:
            self.size, self._successes, self._grew = min(2 * self.size, self.most), 0, True
