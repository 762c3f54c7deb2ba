"""A row of training data, and the interface of all forms of shards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...data.captions import clean_caption

BLOCK = 64
"""Rows that are shuffled as one block in forms without row groups, so that neighbours on disk are read at
about the same time."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One row: the encoded image, and all captions that one may be drawn from."""

    id: str
    image: bytes
    captions: tuple[str, ...]


class RowFault(Exception):
    """A row that can't be used; `reason` is a short stable word (`empty_caption`, `no_image`,
    `unreadable_file`)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Shards(Protocol):
    """Rows 0 to rows-1.

    blocks     first row of each block of neighbours on disk, ascending, then `rows`
    left_out   counts, by reason, of samples that are not among the rows
    keep_rows  how many rows to keep in memory if rows are read in groups"""

    name: str
    rows: int
    blocks: np.ndarray[Any, Any]
    left_out: Counter[str]
    keep_rows: int

    def id(self, row: int) -> str: ...
    def read(self, row: int) -> Pair: ...


def captions_of(values: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    """All captions of a row in the order of `fields`: lists are flattened, empty captions dropped. RowFault
    if none is left."""
    found = []
    for name in fields:
        value = values.get(name)
        for text in value if isinstance(value, list) else [value]:
            clean = clean_caption(text) if isinstance(text, str) else None
            if clean:
                found.append(clean)
    if not found:
        raise RowFault("empty_caption")
    return tuple(found)
