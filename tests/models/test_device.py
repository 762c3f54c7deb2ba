"""device.py: the arithmetic of `AdaptiveBatch`, on numbers in place of prompts."""

from collections.abc import Sequence
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrlsynth.errors import ModelError
from ctrlsynth.models.device import PATIENCE, AdaptiveBatch


class Memory:
    """Holds `most` rows at once; notes the size of every call."""

    def __init__(self, most: int) -> None:
        self.most, self.calls = most, list[int]()

    def __call__(self, rows: Sequence[int]) -> list[int]:
        self.calls.append(len(rows))
        if len(rows) > self.most:
            raise ModelError("out_of_memory")
        return [row * row for row in rows]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 300))
def test_every_row_is_answered_once_and_in_its_place(most: int, memory: int, rows: int) -> None:
    room, holds = AdaptiveBatch(most), Memory(memory)
    assert room.run(range(rows), holds) == [n * n for n in range(rows)]
    assert all(size <= most for size in holds.calls)


def test_it_halves_and_doubles() -> None:
    room, memory = AdaptiveBatch(16), Memory(5)
    room.run(range(4 * PATIENCE), memory)
    assert memory.calls == [16, 8, *[4] * PATIENCE]
    memory.calls = []
    room.run(range(200), memory)
    assert memory.calls[: 3 + 2 * PATIENCE] == [8, 4, *[4] * (2 * PATIENCE - 1), 8, 4]


def test_more_memory_is_found_again() -> None:
    room, memory = AdaptiveBatch(12), Memory(2)
    room.run(range(4), memory)
    memory.most, memory.calls = 100, []
    room.run(range(1000), memory)
    assert (max(memory.calls), memory.calls[-2]) == (12, 12)


def test_a_row_that_never_fits_gets_none_and_other_faults_pass() -> None:
    def call(rows: Sequence[int]) -> list[int]:
        if 7 in rows:
            raise ModelError("out_of_memory")
        return list(rows)

    assert AdaptiveBatch(4).run(range(10), call) == [*range(7), None, 8, 9]
    with pytest.raises(ModelError, match="engine_died"):
        AdaptiveBatch(4).run([1], Mock(side_effect=ModelError("engine_died")))
